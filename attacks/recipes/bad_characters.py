"""Bad characters.

Boucher, Shumailov, Anderson, Papernot. Bad Characters: Imperceptible NLP Attacks. IEEE Symposium
on Security and Privacy 2022. https://arxiv.org/abs/2106.09898

A few edits that a reader does not see, all of one kind: invisible characters, letters' doubles
from other scripts, letters in another order that bidirectional controls put right on the screen,
or characters with a backspace after them. Where they go is found by differential evolution.

As in the authors' code for untargeted attacks on classifiers but for:

* The doubles are our own table of letters, one each, where the authors take all that Unicode
  calls intentional. TextAttack's recipe (``BadCharacters2021``) reads them from a file that is not
  in its wheel, and for classification it aims at a class that must be named.
* The search ends with the first text of a wrong class.
* A generation is evaluated as a whole before the next is drawn, so that the victim sees batches.
* Of two edits at the same letters one is made, where the authors nest them.
* A text that was asked about is not asked about again; both are queries to the authors.

``population`` is, as in the authors' code, times the numbers that describe all the edits: 160
texts a generation for five doubles, 320 for five invisible characters or deletions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import PositiveInt

from attacks.base import Recipe, RecipeConfig
from attacks.imperceptible import KINDS, Edit, apply_edits
from attacks.substitution import Queries
from robust_prefix.evaluation.protocols import Attempt, Victim
from robust_prefix.tasks import Fields

_BATCH = 16  # texts asked about at once; those after the first success are counted, too


@dataclass(frozen=True, kw_only=True)
class BadCharactersConfig(RecipeConfig):
    """Settings of bad characters."""

    kind: Literal["invisible", "homoglyphs", "reorderings", "deletions"] = "homoglyphs"
    max_edits: PositiveInt = 5  # the paper's figures go from 0 to 5 and beyond
    population: PositiveInt = 32  # a number that is searched; the authors' code
    iterations: PositiveInt = 3  # generations after the first; the authors' code for classifiers


class BadCharacters(Recipe[BadCharactersConfig]):
    """Edits that a reader does not see, placed by differential evolution."""

    name = "bad-characters"
    paper = "Boucher et al. 2022, https://arxiv.org/abs/2106.09898"
    edits = "max_edits edits of one kind that a reader does not see"
    deviation = "one double a letter from a table of our own; ends with the first wrong class"
    config_class = BadCharactersConfig

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """See ``Recipe``. ``queries`` counts every text asked about, the original included."""
        self._check(fields)
        queries = Queries(victim, label, self.config.max_queries or sys.maxsize)
        queries.ask([fields])
        if queries.adversarial is not None:  # wrong as it is: there is nothing to attack
            return Attempt(None, queries.made)
        self._search(queries, fields, seed)
        return Attempt(queries.adversarial, queries.made)

    def _search(self, queries: Queries, fields: Fields, seed: int) -> None:
        from scipy.optimize import differential_evolution

        kind = KINDS[self.config.kind]
        places = [
            (number, place)
            for number, (column, text) in enumerate(zip(self.columns, fields, strict=True))
            if column not in self._protected
            for place in kind.places(text)
        ]
        if not places or queries.over:
            return
        # Two numbers an edit: its place, where -1 is none, and which of the options it is. Where
        # there is one option only, its number would be searched for nothing.
        numbers = 2 if kind.options > 1 else 1
        bounds = [(-1, len(places) - 1), (0, kind.options - 1)][:numbers] * self.config.max_edits

        def text_of(vector: Sequence[float]) -> Fields:
            edits = []
            for first in range(0, len(vector), numbers):
                chosen, option = round(vector[first]), 0
                if numbers == 2:
                    option = round(vector[first + 1])
                if chosen >= 0:
                    column, place = places[chosen]
                    end, text = kind.make(fields[column], place, option)
                    edits.append(Edit(column, place, end, text))
            return apply_edits(fields, edits)

        scores: dict[Fields, float] = {}

        def objective(vectors: np.ndarray) -> np.ndarray:
            """Log-probability of the true class, infinite for texts beyond the budget."""
            texts = [text_of(vector) for vector in vectors.T.tolist()]
            new = [text for text in dict.fromkeys(texts) if text not in scores]
            for start in range(0, len(new), _BATCH):
                if queries.over:
                    break
                batch = new[start : start + _BATCH]
                scores.update(zip(batch, queries.ask(batch).tolist(), strict=False))
            return np.array([scores.get(text, np.inf) for text in texts])

        def stop(intermediate_result: object) -> None:
            if queries.over:
                raise StopIteration

        differential_evolution(
            objective,
            bounds,
            maxiter=self.config.iterations,
            popsize=self.config.population,
            polish=False,
            vectorized=True,
            updating="deferred",
            callback=stop,
            rng=np.random.default_rng(seed),
        )
