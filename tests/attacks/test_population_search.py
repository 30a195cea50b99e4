"""What TextAttack's searches get wrong and ours do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from attacks.base import Recipe

Build = Callable[..., Recipe]


class Unmoved:
    """Always positive; how sure depends on the words, so that some texts are fitter."""

    labels, columns = ("negative", "positive"), ("text",)

    def __init__(self, **weights: float) -> None:
        self.weights = weights
        self.asked: list[tuple[str, ...]] = []

    def logits(self, texts: Any) -> np.ndarray:
        self.asked.extend(texts)
        scores = [3 - sum(self.weights.get(w, 0.0) for w in t.split()) for (t,) in texts]
        return np.array([[0.0, s] for s in scores], dtype=np.float32)


@pytest.mark.parametrize("name", ["alzantot", "iga"])
@pytest.mark.usefixtures("language_model")
def test_fitter_parents_are_drawn_more(
    name: str, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = build(f"{name}(population=6, iterations=3, max_changed=1)")
    from textattack.search_methods import genetic_algorithm

    seen = []
    choice = np.random.choice

    def recorded(a: Any, size: Any = None, replace: bool = True, p: Any = None) -> Any:
        if size == 5:  # the parents of one generation
            seen.append(p)
        return choice(a, size, replace, p)

    monkeypatch.setattr(genetic_algorithm.np.random, "choice", recorded)
    victim = Unmoved(solid=1.0, nice=0.1, trip=0.5, film=0.3)
    attack.perturb(victim, ("good movie journey good whole movie",), 1, seed=0)
    assert len(seen) == 6
    for p in seen:  # the population stands in order, the fittest first
        assert list(p) == sorted(p, reverse=True)
    assert seen[0][0] > seen[0][-1]


@pytest.mark.parametrize("name", ["SwarmSearch", "LevySwarmSearch"])
def test_a_particle_turns_towards_the_elite(name: str, build: Build) -> None:
    build("deepwordbug")  # imports TextAttack
    from textattack.search_methods import PopulationMember
    from textattack.shared import AttackedText

    from attacks.parts import population_search

    search = getattr(population_search, name)(population=2, iterations=1)
    search.post_turn_check = False
    elite, particle = (PopulationMember(AttackedText(t)) for t in ("good old film", "bad new trip"))
    # TextAttack's own search calls it in this order.
    for prob, words in (([0, 0, 0], "bad new trip"), ([1, 0, 1], "good new film")):
        turned = search._turn(elite, particle, np.array(prob, dtype=float), particle.attacked_text)
        assert turned.words == words.split()


def test_the_first_generation_tries_each_word_once(build: Build) -> None:
    victim = Unmoved()
    attempt = build("iga(population=3, iterations=1, max_changed=1)").perturb(
        victim, ("good film trip",), 1, seed=0
    )
    # The original; 3 + 1 + 2 neighbours for the first generation; for each of two children itself
    # and again all neighbours, for none is better.
    assert attempt.queries == 1 + 6 + 2 * (1 + 6)
    assert len(set(victim.asked)) == 7


def test_the_first_generation_has_the_best_neighbour_of_each_word(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = build("iga(population=9, iterations=1, max_changed=1)")
    from attacks.parts.population_search import ImprovedGeneticSearch

    seen: list[str] = []
    crossover = ImprovedGeneticSearch._crossover

    def recorded(self: Any, one: Any, other: Any, original: Any) -> Any:
        seen.extend((one.attacked_text.text, other.attacked_text.text))
        return crossover(self, one, other, original)

    monkeypatch.setattr(ImprovedGeneticSearch, "_crossover", recorded)
    victim = Unmoved(solid=1.0, bad=0.5, movie=0.1, voyage=0.2, nice=-1.0)
    for seed in range(5):
        attack.perturb(victim, ("good film trip",), 1, seed)
    assert set(seen) == {"solid film trip", "good movie trip", "good film voyage"}


@pytest.mark.parametrize("name", ["pso", "leap"])
def test_a_swarm_finds_what_needs_several_swaps(name: str, build: Build) -> None:
    victim = Unmoved(solid=1.0, outstanding=1.0, relish=1.5, trip=0.5)
    text = "good great enjoy journey"
    setting = ", max_changed=1" if name == "leap" else ""
    attempt = build(f"{name}(population=8, iterations=10{setting})").perturb(
        victim, (text,), 1, seed=3
    )
    assert attempt.adversarial is not None
    assert (
        sum(a != b for a, b in zip(attempt.adversarial[0].split(), text.split(), strict=True)) >= 3
    )
