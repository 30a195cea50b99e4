"""VIPER, the visual perturber.

Eger, Sahin, Rueckle, Lee, Schulz, Mesgar, Swarnkar, Simpson, Gurevych. Text Processing Like Humans
Do: Visually Attacking and Shielding NLP Systems. NAACL 2019. https://aclanthology.org/N19-1165/

Each character is replaced, with a probability, by one that looks alike, drawn from the nearest in
one of three spaces:

``dces``
    characters whose Unicode names say the same letter: "a" may become "ȧ", "ⓐ" or "ɐ";
``eces``
    the same letter with one mark above or below: "a" becomes "â";
``ices``
    characters whose images, 24 pixels wide, are alike: "a" may become a Cyrillic letter.

The paper perturbs each text once and at random. So does ``tries=1``, which sees nothing of the
model; with more, draws are asked about until one is misclassified.

The authors' code differs thus: its names are those of one version of Unicode's list, of which it
also keeps scripts other than Latin, and a character may be "replaced" by itself; its one letter of
ECES is chosen by hand, here it is the first of a list of marks that Unicode has on the letter; its
images leave in letters from right to left, which reorder the text.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from attacks.base import Recipe, RecipeConfig
from attacks.label_queries import LabelQueries
from attacks.visual_neighbors import Lookalikes, described_alike, drawn_alike, marked
from robust_prefix.evaluation.protocols import Attempt, ThreatModel, Victim
from robust_prefix.tasks import Fields

# Draws asked about at once: twice as many each time, up to this many, for most texts fall to few.
_MAX_BATCH = 8
_REPEATS = 100  # as many draws in a row of texts already drawn, and there are no others


@dataclass(frozen=True, kw_only=True)
class ViperConfig(RecipeConfig):
    """Settings of VIPER."""

    probability: Annotated[float, Field(gt=0, le=1)] = 0.4  # of a character to be replaced
    space: Literal["dces", "eces", "ices"] = "dces"
    tries: PositiveInt = 16  # texts drawn; 1 is the paper's


class Viper(Recipe[ViperConfig]):
    """Characters at random by others that look alike."""

    name = "viper"
    paper = "Eger et al. 2019, https://aclanthology.org/N19-1165/"
    knowledge = "label"
    edits = "each character with probability by one that looks alike"
    deviation = (
        "up to tries draws where the paper makes one; Latin letters of Python's Unicode, and for "
        "eces the first mark that Unicode composes with the letter"
    )
    config_class = ViperConfig

    def _needed(self) -> tuple[str, ...]:
        return ("dejavu-sans",) if self.config.space == "ices" else ()

    @property
    def threat(self) -> ThreatModel:
        """See ``Recipe``. A single draw needs to see nothing."""
        threat = super().threat
        return dataclasses.replace(threat, knowledge="none") if self.config.tries == 1 else threat

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """See ``Recipe``. ``queries`` counts every text asked about, the original included."""
        self._check(fields)
        queries = LabelQueries(victim, label, self.config.max_queries)
        if queries.first_misclassified([fields]) is not None:  # wrong as it is
            return Attempt(None, queries.made)
        rng = random.Random(seed)
        drawn, left, size, adversarial = {fields}, self.config.tries, 1, None
        while adversarial is None and left and not queries.over:
            batch = self._draw(fields, min(left, size), drawn, rng)
            if not batch:
                break
            left -= len(batch)
            size = min(2 * size, _MAX_BATCH)
            adversarial = queries.first_misclassified(batch)
        return Attempt(adversarial, queries.made)

    def _draw(
        self, fields: Fields, count: int, drawn: set[Fields], rng: random.Random
    ) -> list[Fields]:
        """Up to ``count`` texts that are not in ``drawn`` yet, which gets them."""
        batch: list[Fields] = []
        repeats = 0
        while len(batch) < count and repeats < _REPEATS:
            text = tuple(
                field if column in self._protected else self._perturbed(field, rng)
                for column, field in zip(self.columns, fields, strict=True)
            )
            if text in drawn:
                repeats += 1
                continue
            repeats = 0
            drawn.add(text)
            batch.append(text)
        return batch

    def _perturbed(self, text: str, rng: random.Random) -> str:
        characters = list(text)
        for place, character in enumerate(characters):
            if rng.random() < self.config.probability:
                near = self._alike(character)
                if near.characters:
                    [characters[place]] = rng.choices(near.characters, near.weights)
        return "".join(characters)

    @cached_property
    def _alike(self) -> Callable[[str], Lookalikes]:
        """What may stand for a character, in the space of the settings."""
        if self.config.space == "ices":
            return partial(drawn_alike, font=self._found("dejavu-sans").path)
        return described_alike if self.config.space == "dces" else marked
