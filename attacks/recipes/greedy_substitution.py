"""Greedy substitution: how far scores alone lead.

Not a paper's attack: the search of TextFooler (Jin et al. 2020, https://arxiv.org/abs/1907.11932)
over the neighbours in the counter-fitted vectors (Mrksic et al. 2016,
https://aclanthology.org/N16-1018/), with none of its constraints. Beside ``random-substitution``,
which has the same candidates and the same budget, it shows what following the scores is worth.

The words that have neighbours are ranked by how much the log-probability of the true class falls
without them. In that order each is replaced by the neighbour that lowers it most, if any does,
until the class changes, the share of words is used up or the budget is gone.

Stopwords are not spared and no encoder judges the meaning: what it finds is an upper bound of what
a constrained attack finds with this list, not a set of texts that a reader would call the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from attacks.substitution import Queries, Slot, SubstitutionAttack, SubstitutionConfig, substitute
from attacks.victim import without_blanks
from robust_prefix.tasks import Fields


@dataclass(frozen=True, kw_only=True)
class GreedySubstitutionConfig(SubstitutionConfig):
    """Settings of greedy substitution: none of its own."""


class GreedySubstitution(SubstitutionAttack[GreedySubstitutionConfig]):
    """The most harmful neighbour for the words that matter most."""

    name = "greedy-substitution"
    paper = "own; search of Jin et al. 2020, https://arxiv.org/abs/1907.11932"
    edits = "listed neighbours in max_changed of the words, no other constraint"
    config_class = GreedySubstitutionConfig

    def _search(
        self,
        queries: Queries,
        fields: Fields,
        score: float,
        slots: list[Slot],
        limit: int,
        rng: random.Random,
    ) -> None:
        """See ``SubstitutionAttack``. Nothing is left to chance."""
        words: dict[Slot, str] = {}
        for slot in _by_importance(queries, fields, slots):
            if queries.over or len(words) == limit:
                return
            choices = [substitute(fields, {**words, slot: word}) for word in slot.candidates]
            scores = queries.ask(choices)
            if scores.min() < score:
                score = float(scores.min())
                words[slot] = slot.candidates[int(scores.argmin())]


def _by_importance(queries: Queries, fields: Fields, slots: list[Slot]) -> list[Slot]:
    """``slots`` by the true class's score without their word, the least first.

    A text without a word is no substitution: that it is misclassified makes it no adversary.
    """
    scores = queries.rate([without_blanks(substitute(fields, {slot: ""})) for slot in slots])
    return [slots[i] for i in scores.argsort(kind="stable")]
