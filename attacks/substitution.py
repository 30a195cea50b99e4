"""Substituting words by the neighbours of a list, without constraints from outside.

No TextAttack here: what counts as a word, which words may change and what a query costs is the
same for every attack built on this, so that their results compare under one budget.
"""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field, PositiveInt

from attacks.base import Recipe, RecipeConfig
from attacks.resources.neighbors import Neighbors, load_neighbors, neighbors_of
from attacks.victim import checked_logits
from attacks.words import WORD
from robust_prefix.evaluation.protocols import Attempt, Victim
from robust_prefix.tasks import Fields


@dataclass(frozen=True, kw_only=True)
class SubstitutionConfig(RecipeConfig):
    """Settings of every attack that substitutes words."""

    # Never without limit: a random search would not end.
    max_queries: PositiveInt = 200
    # At most this share of the words that may change does, rounded up to whole words.
    max_changed: Annotated[float, Field(gt=0, le=1)] = 0.25


@dataclass(frozen=True)
class Slot:
    """One word that may change."""

    column: int
    start: int
    end: int
    candidates: tuple[str, ...]  # never empty, never the word itself


def substitute(fields: Fields, words: Mapping[Slot, str]) -> Fields:
    """``fields`` with ``words`` in their slots, everything between them as it was."""
    changed = list(fields)
    # From the end on, so that the places of the others stay right.
    for slot, word in sorted(words.items(), key=lambda item: item[0].start, reverse=True):
        text = changed[slot.column]
        changed[slot.column] = text[: slot.start] + word + text[slot.end :]
    return tuple(changed)


def place(slot: Slot, words: Mapping[Slot, str]) -> tuple[int, int, int]:
    """Column, start and end of ``slot`` in the text that ``substitute`` makes with ``words``."""
    shift = sum(
        len(word) - (other.end - other.start)
        for other, word in words.items()
        if other.column == slot.column and other.start < slot.start
    )
    length = len(words[slot]) if slot in words else slot.end - slot.start
    return slot.column, slot.start + shift, slot.start + shift + length


class Queries:
    """The victim under a budget, and the first adversary it lets through.

    Args:
        victim: what is asked.
        label: the true class.
        budget: how many texts may be asked about.
    """

    def __init__(self, victim: Victim, label: int, budget: int) -> None:
        self.victim = victim
        self.label = int(label)
        self._budget = budget
        self.made = 0
        self.adversarial: Fields | None = None

    @property
    def left(self) -> int:
        """How many more texts may be asked about."""
        return self._budget - self.made

    @property
    def over(self) -> bool:
        """Whether an adversary is found or the budget is gone."""
        return self.adversarial is not None or self.left <= 0

    def spend(self, texts: Sequence[Fields]) -> Sequence[Fields]:
        """The first of ``texts``, as many as the budget allows, counted as asked about."""
        texts = texts[: self.left]
        self.made += len(texts)
        return texts

    def ask(self, texts: Sequence[Fields]) -> np.ndarray:
        """As ``rate``; of those that are misclassified the surest becomes the adversary."""
        scores, fooled = self._query(texts)
        if fooled.size and self.adversarial is None:
            self.adversarial = texts[fooled[scores[fooled].argmin()]]
        return scores

    def rate(self, texts: Sequence[Fields]) -> np.ndarray:
        """Log-probability of the true class of as many of ``texts`` as the budget allows.

        Returns:
            float64 ``(n,)`` for the first n of ``texts``.
        """
        return self._query(texts)[0]

    def _query(self, texts: Sequence[Fields]) -> tuple[np.ndarray, np.ndarray]:
        texts = self.spend(texts)
        if not texts:
            return np.empty(0), np.empty(0, dtype=np.intp)
        logits = checked_logits(self.victim, texts)
        # Log-probabilities: the probabilities of a sure victim are all 1.
        scores = logits[:, self.label] - np.logaddexp.reduce(logits, axis=1)
        return scores, np.flatnonzero(logits.argmax(axis=1) != self.label)


# Not bound by RecipeConfig: the searches need a budget and a share.
Substitution = TypeVar("Substitution", bound=SubstitutionConfig)


class SubstitutionAttack(Recipe[Substitution]):
    """A search over the substitutions that a neighbour list allows."""

    needs = ("counterfitted-neighbors",)

    @cached_property
    def _neighbors(self) -> Neighbors:
        return load_neighbors(self._found("counterfitted-neighbors"))

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """See ``Recipe``. ``queries`` counts every text asked about, the original included."""
        self._check(fields)
        queries = Queries(victim, label, self.config.max_queries)
        [score] = queries.ask([fields])
        if queries.adversarial is not None:  # wrong as it is: there is nothing to attack
            return Attempt(None, queries.made)
        slots, limit = self._slots(fields)
        if slots:
            self._search(queries, fields, float(score), slots, limit, random.Random(seed))
        return Attempt(queries.adversarial, queries.made)

    @abstractmethod
    def _search(
        self,
        queries: Queries,
        fields: Fields,
        score: float,
        slots: list[Slot],
        limit: int,
        rng: random.Random,
    ) -> None:
        """Ask until ``queries.over`` or there is nothing left to try.

        Args:
            queries: the victim under its budget; it keeps the adversary.
            fields: the original.
            score: log-probability of its true class.
            slots: the words that may change, in order; at least one.
            limit: how many of them may change at once, 1 to ``len(slots)``.
            rng: the only source of chance.
        """

    def _slots(self, fields: Fields) -> tuple[list[Slot], int]:
        """The words with neighbours in the columns that may change, and how many may change."""
        slots, words = [], 0
        for number, (column, text) in enumerate(zip(self.columns, fields, strict=True)):
            if column in self._protected:
                continue
            for match in WORD.finditer(text):
                words += 1
                candidates = neighbors_of(match.group(), self._neighbors)
                if candidates:
                    slots.append(Slot(number, match.start(), match.end(), tuple(candidates)))
        # Less a little, lest 0.07 * 100, which is 7.000000000000001, be rounded up to 8.
        return slots, min(len(slots), max(1, math.ceil(self.config.max_changed * words - 1e-9)))
