"""HotFlip, on words.

Ebrahimi, Rao, Lowd, Dou. HotFlip: White-Box Adversarial Examples for Text Classification. ACL
2018. https://aclanthology.org/P18-2006/

A flip puts another word in the place of one. What it does to the loss is estimated from the
gradient with respect to the embeddings, for all words and all flips of a text at once; a beam
search combines flips. Of the words that may stand for another the paper keeps those whose
embedding is near (a cosine above 0.8), whose part of speech is the same and whose lexeme differs,
and it spares stopwords: with one or two flips it broke 2 % of SST.

TextAttack's recipe (``HotFlipEbrahimi2017``) accepts TextAttack's LSTM alone, so this is composed
anew. It differs from the paper:

* The victim reads tokens, not words. A word may flip to any word that is one token of the victim;
  of a word that is several tokens each is flipped to that same token for the estimate.
* Many tokens that look like words are stems or pieces. A word counts as one where the
  counter-fitted list knows it, and a flip keeps the case.
* The cosine is that of the victim's own input embeddings.
* Two words of one stem (Porter's) stand for two of one lexeme.
* The paper trusts its estimates until the beam is done; here each text of the beam is asked about,
  which also ends the search at the first adversary. The character flips, the paper's main subject,
  are no part of this: characters are no inputs of a model of tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated

import numpy as np
from pydantic import Field, PositiveInt

from attacks.base import Recipe
from attacks.gradients import GradientConfig, Gradients
from attacks.resources.neighbors import load_neighbors
from attacks.substitution import Queries, Slot, place, substitute
from attacks.victim import gradient_victim
from attacks.vocabulary import Vocabulary, read_vocabulary
from attacks.words import WORD
from robust_prefix.evaluation.protocols import Attempt, GradientVictim, Victim
from robust_prefix.tasks import Fields

Flips = dict[Slot, str]
"""The words that stand in place of others."""


@dataclass(frozen=True, kw_only=True)
class HotFlipConfig(GradientConfig):
    """Settings of HotFlip."""

    max_flips: PositiveInt = 2
    beam_width: PositiveInt = 10
    min_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.8  # of the victim's input embeddings
    same_pos: bool = True  # the same universal part of speech


class HotFlip(Recipe[HotFlipConfig]):
    """The flips of words that the gradient promises most of, in a beam."""

    name = "hotflip"
    paper = "Ebrahimi et al. 2018, https://aclanthology.org/P18-2006/"
    knowledge = "gradient"
    edits = (
        "max_flips words to words of the same part of speech where same_pos says so, embeddings' "
        "cosine of min_cosine or more, no stopwords, no inflections"
    )
    deviation = (
        "words alone, no characters; flips to one-token words that the counter-fitted list knows; "
        "stems for lexemes; the beam's texts are asked about, not only estimated"
    )
    packages = ("nltk",)
    needs = ("stopwords", "averaged_perceptron_tagger_eng", "counterfitted-neighbors")
    config_class = HotFlipConfig

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """See ``Recipe``. ``queries`` counts texts asked about and gradients."""
        self._check(fields)
        queries = Queries(victim, label, self.config.max_queries or sys.maxsize)
        queries.ask([fields])
        if queries.adversarial is not None:  # wrong as it is: there is nothing to attack
            return Attempt(None, queries.made)
        self._search(queries, fields)
        return Attempt(queries.adversarial, queries.made)

    def _search(self, queries: Queries, fields: Fields) -> None:
        """Nothing is left to chance."""
        gradients = Gradients(queries, self.config.through)
        slots = self._slots(gradient_victim(queries.victim), fields)
        beam: list[Flips] = [{}]
        for _ in range(self.config.max_flips):
            beam = self._next_beam(gradients, fields, slots, beam)
            queries.ask([substitute(fields, flips) for flips in beam])
            if queries.over or not beam:
                return

    def _next_beam(
        self, gradients: Gradients, fields: Fields, slots: list[Slot], beam: list[Flips]
    ) -> list[Flips]:
        """The sets of one more flip with the highest estimated loss, the highest first."""
        choices: list[tuple[Flips, Slot, str]] = []
        losses: list[np.ndarray] = []
        found = gradients.of([substitute(fields, flips) for flips in beam])
        for flips, slopes in zip(beam, found, strict=False):  # fewer where the budget ends
            for slot in slots:
                if slot not in flips:
                    choices += [(flips, slot, word) for word in slot.candidates]
                    gains = gradients.gains(slopes, place(slot, flips), slot.candidates)
                    losses.append(slopes.loss + gains)
        estimates = np.concatenate([*losses, np.empty(0)])
        best: list[Flips] = []
        for number in np.argsort(-estimates, kind="stable"):
            flips, slot, word = choices[number]
            if len(best) == self.config.beam_width or not np.isfinite(estimates[number]):
                break
            # Two flips are found twice, once in either order.
            if flips | {slot: word} not in best and self._keeps_pos(fields, slot, word):
                best.append(flips | {slot: word})
        return best

    def _slots(self, victim: GradientVictim, fields: Fields) -> list[Slot]:
        """The words that may flip, and the words that they may flip to."""
        vocabulary = read_vocabulary(victim)
        slots = []
        for number, (column, text) in enumerate(zip(self.columns, fields, strict=True)):
            if column in self._protected:
                continue
            for match in WORD.finditer(text):
                if match.group().lower() not in self._stopwords:
                    before = " " if text[: match.start()].endswith(" ") else ""
                    candidates = tuple(self._near(victim, vocabulary, before, match.group()))
                    if candidates:
                        slots.append(Slot(number, match.start(), match.end(), candidates))
        return slots

    def _near(
        self, victim: GradientVictim, vocabulary: Vocabulary, before: str, word: str
    ) -> Iterator[str]:
        """What ``word`` may flip to, whatever stands around it."""
        [tokens] = victim.encode([before + word])
        # by the token, not the text: a model of word pieces has words behind a space alone
        words = vocabulary.like(victim.decode(tokens[:1]))
        old = victim.embeddings()[list(tokens)].mean(axis=0)
        scale = words.norms * np.linalg.norm(old)
        for number in np.flatnonzero(words.embeddings @ old >= self.config.min_cosine * scale):
            other = words.texts[number]
            if (
                other.lower() in self._known
                and _case(other) == _case(word)
                and _stem(other) != _stem(word)
            ):
                yield other

    def _keeps_pos(self, fields: Fields, slot: Slot, word: str) -> bool:
        """Whether ``word`` in ``slot`` of the original is tagged as the word it replaces."""
        if not self.config.same_pos:
            return True
        from attacks.resources.tagger import universal_tags

        found = self._found("averaged_perceptron_tagger_eng")
        matches = list(WORD.finditer(fields[slot.column]))
        index = [match.start() for match in matches].index(slot.start)
        old = [match.group() for match in matches]
        new = [*old[:index], word, *old[index + 1 :]]
        return universal_tags(found, old)[index] == universal_tags(found, new)[index]

    @cached_property
    def _stopwords(self) -> frozenset[str]:
        from attacks.resources.wordnet import english_stopwords

        return frozenset(english_stopwords(self._found("stopwords")))

    @cached_property
    def _known(self) -> frozenset[str]:
        """The words of the counter-fitted list, all of them in lower case."""
        listed = load_neighbors(self._found("counterfitted-neighbors"))
        return frozenset(listed).union(*listed.values())


def _case(word: str) -> tuple[bool, bool, bool]:
    return word.islower(), word.isupper(), word.istitle()


@lru_cache(maxsize=2**16)
def _stem(word: str) -> str:
    from nltk.stem import PorterStemmer

    stem: str = PorterStemmer().stem(word)
    return stem
