"""An adversary that substitutes words while a prefix is trained, guided by the gradient.

Worst of several perturbed copies, as in discrete adversarial training (Ivgi & Berant, EMNLP 2021,
"Achieving Model Robustness through Discrete Adversarial Training"). Candidates are ranked by the
first-order change of the loss (Ebrahimi et al., ACL 2018, "HotFlip"), several combinations are
drawn by that rank, and each text's worst, by a pass of its own, is trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.errors import ConfigError
from robust_prefix.objectives.base import Adversary, Minibatch, Prompts, TextReader
from robust_prefix.objectives.typos import typos
from robust_prefix.prefixes.model import Prompter
from robust_prefix.synonyms import WORD, Substitutes
from robust_prefix.tasks import Fields
from robust_prefix.word_scores import WordScores

_WORDS_KEPT = 20_000  # whose vectors are remembered: typos are new ones at every word


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class SubstitutionConfig:
    """Settings of the search.

    Attributes:
        edits: what may stand for a word: ``synonyms`` those of the word lists, ``typos`` a letter
            swapped, dropped, added or hit beside, ``both``.
        max_changed: at most this share of a text's words changes, rounded up, and one word at
            least; the share is drawn anew for each text, so that lightly edited texts are trained
            on as well.
        variants: combinations tried in a round.
        rounds: each goes on from the worst text of the one before, with a new gradient.
        typos_a_word: typos drawn for each word.
        temperature: how far the draw strays from the candidates ranked first; 0 never.
    """

    edits: Literal["synonyms", "typos", "both"] = "synonyms"
    max_changed: float = Field(default=0.5, gt=0, le=1)
    variants: int = Field(default=4, ge=1)
    rounds: int = Field(default=1, ge=1)
    typos_a_word: int = Field(default=4, ge=1)
    temperature: float = Field(default=0.5, ge=0)


@dataclass(frozen=True)
class _Slot:
    """One word that may change: its place in the original and what may stand there."""

    column: int
    start: int
    end: int
    word: str
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class _Draft:
    """A text with some of its words substituted."""

    original: Fields
    slots: tuple[_Slot, ...]
    budget: int  # words that may change
    words: Mapping[int, str]  # by slot

    @property
    def fields(self) -> Fields:
        """The text as it reads."""
        changed = list(self.original)
        # from the end on, so that the places of the others stay right
        for number in sorted(self.words, reverse=True):
            slot = self.slots[number]
            text = changed[slot.column]
            changed[slot.column] = text[: slot.start] + self.words[number] + text[slot.end :]
        return tuple(changed)

    def places(self) -> list[tuple[int, int, int]]:
        """Column, start and end of each slot in the text as it reads."""
        shift = dict.fromkeys(range(len(self.original)), 0)
        found = []
        for number, slot in enumerate(self.slots):
            word = self.words.get(number, slot.word)
            start = slot.start + shift[slot.column]
            found.append((slot.column, start, start + len(word)))
            shift[slot.column] += len(word) - len(slot.word)
        return found


class SubstitutionAdversary(Adversary[SubstitutionConfig]):
    """Synonyms and typos that raise the loss.

    Args:
        prompter: of the model that is trained.
        substitutes: the word lists; needed unless ``edits`` is ``typos``.
        columns: numbers of the columns that may change; the last one where not given.
        reader: rewrites the texts before the model; a typo is tried as it reads it by itself.

    Raises:
        ConfigError: ``edits`` asks for synonyms and no word lists are given.
    """

    name = "substitution"
    summary = "the worst of several texts with words substituted, guided by the gradient"
    config_type = SubstitutionConfig

    def __init__(
        self,
        prompter: Prompter,
        substitutes: Substitutes | None = None,
        columns: Sequence[int] | None = None,
        reader: TextReader | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if substitutes is None and self.config.edits != "typos":
            raise ConfigError(
                f"expected word lists for {self.name}(edits={self.config.edits}), got none; "
                "give --data-dir, or edits=typos"
            )
        self._substitutes = substitutes
        self._columns = columns if columns is not None else (len(prompter.task.columns) - 1,)
        self._reader = reader
        self._vectors = _WordVectors(prompter)

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        prompter: Prompter,
        substitutes: Substitutes | None,
        reader: TextReader | None = None,
    ) -> Self:
        """See ``Adversary``."""
        return cls(prompter, substitutes, reader=reader, **settings)

    def perturb(self, minibatch: Minibatch, seed: int) -> list[Prompts]:
        """The prompts of each text's worst version."""
        rng = np.random.default_rng((seed, minibatch.step))
        drafts = [self._draft(fields, rng) for fields in minibatch.fields]
        prompts = minibatch.prompts
        for turn in range(self.config.rounds):
            share = (turn + 1) / self.config.rounds
            gains = self._gains(minibatch, drafts, prompts)
            pool = [
                [self._variant(*pair, share, rng) for pair in zip(drafts, gains, strict=True)]
                for _ in range(self.config.variants)
            ]
            with torch.no_grad():
                texts = [draft.fields for variant in pool for draft in variant]
                losses = minibatch.losses(minibatch.embed(texts)).view(len(pool), -1)
            drafts = [pool[best][text] for text, best in enumerate(losses.argmax(0).tolist())]
            prompts = minibatch.embed([draft.fields for draft in drafts])
        return [prompts]

    def _draft(self, fields: Fields, rng: np.random.Generator) -> _Draft:
        slots, words = [], 0
        for column in self._columns:
            for match in WORD.finditer(fields[column]):
                words += 1
                candidates = self._candidates(match.group(), rng)
                if candidates:
                    slots.append(
                        _Slot(column, match.start(), match.end(), match.group(), candidates)
                    )
        share = self.config.max_changed * rng.uniform()
        return _Draft(fields, tuple(slots), max(1, math.ceil(share * words)), {})

    def _candidates(self, word: str, rng: np.random.Generator) -> tuple[str, ...]:
        found: list[str] = []
        if self.config.edits != "typos" and self._substitutes is not None:
            found += self._substitutes(word)
        if self.config.edits != "synonyms":
            made = typos(word, self.config.typos_a_word, rng)
            if self._reader is not None:
                made = [text for typo in made for text in self._reader.read((typo,))]
            found += made
        return tuple(other for other in found if other != word)

    def _gains(
        self, minibatch: Minibatch, drafts: Sequence[_Draft], prompts: Prompts
    ) -> list[list[np.ndarray]]:
        """First-order gain in loss of each candidate of each slot of each draft."""
        gradient, of_beside = minibatch.slopes(prompts)
        gains = [self._gains_of(draft, rows) for draft, rows in zip(drafts, gradient, strict=True)]
        if of_beside is not None:
            for draft, found, words, slope in zip(
                drafts, gains, minibatch.words, of_beside, strict=True
            ):
                _add_scores(found, draft, words, slope)
        return gains

    def _gains_of(self, draft: _Draft, gradient: Tensor) -> list[np.ndarray]:
        spans = self._vectors.prompter.spans(draft.fields)
        gains = []
        for number, (place, slot) in enumerate(zip(draft.places(), draft.slots, strict=True)):
            tokens = [
                token
                for token, span in enumerate(spans)
                if span is not None
                and span[0] == place[0]
                and span[1] < place[2]
                and span[2] > place[1]
            ]
            here = gradient[tokens].sum(0)
            now = self._vectors.of([draft.words.get(number, slot.word)])
            change = self._vectors.of(slot.candidates) - now
            gains.append((change @ here).numpy())
        return gains

    def _variant(
        self, draft: _Draft, gains: list[np.ndarray], share: float, rng: np.random.Generator
    ) -> _Draft:
        """``draft`` with more words substituted, up to ``share`` of its budget."""
        free = [n for n in range(len(draft.slots)) if n not in draft.words]
        count = min(len(free), math.ceil(share * draft.budget) - len(draft.words))
        if count < 1:
            return draft
        spread = float(np.concatenate([gains[n] for n in free]).std())
        noisy = {
            n: gains[n] + self.config.temperature * spread * rng.gumbel(size=len(gains[n]))
            for n in free
        }
        chosen = sorted(free, key=lambda n: -noisy[n].max())[:count]
        words = {n: draft.slots[n].candidates[int(noisy[n].argmax())] for n in chosen}
        return _Draft(draft.original, draft.slots, draft.budget, {**draft.words, **words})


def _add_scores(gains: list[np.ndarray], draft: _Draft, words: WordScores, slope: Tensor) -> None:
    """Add what candidates gain by the scores of words, whose sum has the slope ``(classes,)``."""
    for number, slot in enumerate(draft.slots):
        now = words.says(draft.words.get(number, slot.word))
        change = torch.stack([words.says(candidate) for candidate in slot.candidates]) - now
        gains[number] += (change @ slope).numpy()


class _WordVectors:
    """The mean input embedding of the tokens that a word is read as, inside a sentence; the
    latest are remembered."""

    def __init__(self, prompter: Prompter) -> None:
        self.prompter = prompter
        self._known: dict[str, Tensor] = {}

    def of(self, words: Sequence[str]) -> Tensor:
        """float32 ``(len(words), hidden)``."""
        if len(self._known) > _WORDS_KEPT:
            self._known.clear()
        new = list(dict.fromkeys(word for word in words if word not in self._known))
        if new:
            matrix = self.prompter.backbone.model.get_input_embeddings().weight
            read = [self.prompter.read((word,))[0] for word in new]
            rows = self.prompter.backbone.encode([f" {word}" for word in read])
            for word, row in zip(new, rows, strict=True):
                self._known[word] = matrix[row].float().mean(0).cpu()
        return torch.stack([self._known[word] for word in words])
