"""Genetic and swarm searches. Imports TextAttack: import it only from a recipe.

TextAttack's classes, less four faults of release 0.3.11:

* Its genetic algorithms draw the parents of the next generation by a softmax over the *negative*
  scores, so that the worst are drawn most; in the papers fitness decides.
* Its swarms turn an elite towards a particle where the paper's turn the particle towards the elite.
* In the improved genetic algorithm's first generation the first word is a random one, and a word
  without an improving substitute is tried again once for every word of the text.
* A text in which nothing may be swapped costs a query for each member of each generation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from textattack.search_methods import (
    AlzantotGeneticAlgorithm,
    ImprovedGeneticAlgorithm,
    ParticleSwarmOptimization,
    ParticleSwarmOptimizationLEAP,
    SearchMethod,
)

from attacks.parts.greedy_search import standing

# Minus that of the papers, for TextAttack puts a minus before the scores it divides.
_TEMPERATURE = -0.3


class _IfAnythingChanges(SearchMethod):
    """Searches only where the original has some substitute."""

    def perform_search(self, initial_result: Any) -> Any:
        text = initial_result.attacked_text
        if not text.words or not self.get_transformations(text, original_text=text):
            return initial_result
        return super().perform_search(initial_result)


class GeneticSearch(_IfAnythingChanges, AlzantotGeneticAlgorithm):
    """The search of Alzantot et al. 2018; children keep the constraints, too.

    Args:
        population: texts of a generation.
        iterations: generations after the first; what the last one's children say counts only
            as queries, as in the authors' code.
    """

    def __init__(self, population: int, iterations: int) -> None:
        super().__init__(pop_size=population, max_iters=iterations, temp=_TEMPERATURE)


class ImprovedGeneticSearch(_IfAnythingChanges, ImprovedGeneticAlgorithm):
    """The search of Wang et al. 2019; children keep the constraints, too.

    Args:
        population: texts of a generation; one for each word at most, as TextAttack makes all of
            them as large as the first.
        iterations: generations after the first.
        max_replacements: how often one word may be replaced, each time by a neighbour of the last.
    """

    def __init__(self, population: int, iterations: int, max_replacements: int) -> None:
        super().__init__(
            pop_size=population,
            max_iters=iterations,
            temp=_TEMPERATURE,
            max_replace_times_per_index=max_replacements,
        )

    def _perturb(self, pop_member: Any, original_result: Any, index: int | None = None) -> Any:
        if index is None:
            return super()._perturb(pop_member, original_result)
        texts = self.get_transformations(
            pop_member.attacked_text,
            original_text=original_result.attacked_text,
            indices_to_modify=[index],
        )
        if not texts:
            return pop_member
        results, self._search_over = self.get_goal_results(texts)
        best = max(results, key=standing, default=pop_member.result)
        if standing(best) <= standing(pop_member.result):
            return pop_member
        return self._modify_population_member(pop_member, best.attacked_text, best, index)


class _TowardsTheElite(ParticleSwarmOptimization):
    """Turns a particle towards an elite, word by word."""

    def __init__(self, population: int, iterations: int) -> None:
        super().__init__(pop_size=population, max_iters=iterations)

    def _turn(self, source_text: Any, target_text: Any, prob: np.ndarray, original: Any) -> Any:
        # TextAttack calls this with the elite first, and its method starts from what comes first.
        return super()._turn(target_text, source_text, prob, original)


class SwarmSearch(_IfAnythingChanges, _TowardsTheElite):
    """The particle swarm of Zang et al. 2020.

    Args:
        population: particles.
        iterations: moves of each.
    """


class LevySwarmSearch(_IfAnythingChanges, _TowardsTheElite, ParticleSwarmOptimizationLEAP):
    """The particle swarm of Xiao et al. 2023: Levy flights, an inertia for each particle.

    Args:
        population: particles.
        iterations: moves of each.
    """
