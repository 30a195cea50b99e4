"""Random substitution: the floor below every attack that is guided.

Not a paper's attack: words drawn at random take neighbours drawn at random from the
counter-fitted list (Mrksic et al. 2016, https://aclanthology.org/N16-1018/), over and over. Each
try starts from the original and changes as many words as ``max_changed`` allows. It has the
candidates and the budget of ``greedy-substitution``, so a guided attack that finds no more than
this has not used what the victim told it, which is how gradient masking shows (Athalye et al.
2018, https://arxiv.org/abs/1802.00420).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from attacks.substitution import Queries, Slot, SubstitutionAttack, SubstitutionConfig, substitute
from robust_prefix.tasks import Fields

_BATCH = 16  # tries asked about at once; those after the first success are counted, too
_REPEATS = 100  # as many draws in a row of texts already tried, and the attack gives up


@dataclass(frozen=True, kw_only=True)
class RandomSubstitutionConfig(SubstitutionConfig):
    """Settings of random substitution: none of its own."""


class RandomSubstitution(SubstitutionAttack[RandomSubstitutionConfig]):
    """Random neighbours for random words until one try succeeds."""

    name = "random-substitution"
    paper = "own; candidates of Mrksic et al. 2016, https://aclanthology.org/N16-1018/"
    edits = "listed neighbours in max_changed of the words, no other constraint"
    config_class = RandomSubstitutionConfig

    def _search(
        self,
        queries: Queries,
        fields: Fields,
        score: float,
        slots: list[Slot],
        limit: int,
        rng: random.Random,
    ) -> None:
        """See ``SubstitutionAttack``. A text already tried is not asked about again."""
        tried = {fields}
        while not queries.over:
            batch: list[Fields] = []
            repeats = 0
            while len(batch) < min(_BATCH, queries.left) and repeats < _REPEATS:
                words = {slot: rng.choice(slot.candidates) for slot in rng.sample(slots, limit)}
                text = substitute(fields, words)
                repeats = repeats + 1 if text in tried else 0
                if text not in tried:
                    tried.add(text)
                    batch.append(text)
            if not batch:
                return
            queries.ask(batch)
