"""Words found by a genetic algorithm, without gradients.

The loop is that of EvoPrompt (Guo et al., ICLR 2024, "Connecting Large Language Models with
Evolutionary Algorithms Yields Powerful Prompt Optimizers", the genetic algorithm): parents are
chosen, crossed over and mutated, and the best of parents and children live on. There a language
model writes the children; here they come from edits that need none, two of the kinds of GrIPS
(Prasad et al., EACL 2023, "GrIPS: Gradient-free, Edit-based Instruction Search for Prompting Large
Language Models"): words are swapped, and one is replaced by a word of the vocabulary. No word is
added or dropped, as the length is a setting; none is paraphrased.

Parents are chosen in tournaments of two. Parents and children of a generation are measured on one
batch of training texts, by accuracy and, where that is the same, by the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from robust_prefix.configs import EvolvedPromptConfig
from robust_prefix.prefixes.hard_prompt import Wording, Words
from robust_prefix.prefixes.searched import Questions, Score, Searched

_TRIES = 20
"""For each child; where words are few, most are there already."""


class EvolvedPrompt(Searched[EvolvedPromptConfig]):
    """Words found by mutation, crossover and selection."""

    name = "evolved-prompt"
    paper = "Guo et al. 2024"
    learns = "words before the prompt, by mutation, crossover and selection"
    formula = "length"
    config_type = EvolvedPromptConfig

    @property
    def steps(self) -> int:
        """See ``Searched``."""
        return self.config.generations

    def step(
        self, wording: Wording, population: Sequence[Words], questions: Questions, random: Random
    ) -> tuple[list[Words], Score]:
        """See ``Searched``."""
        size = self.config.population
        scores = {words: questions.score(words) for words in population}

        def rank(words: Words) -> tuple[float, float]:
            return -scores[words].accuracy, scores[words].loss

        def parent() -> Words:
            return min((random.choice(population) for _ in range(2)), key=rank)

        known = set(scores)
        # The start is alone: its children fill the population first.
        for _ in range(_TRIES * (2 * size - len(known))):
            if len(known) == 2 * size:
                break
            child = mutated(crossed(parent(), parent(), random), wording.vocabulary, random)
            if child not in known and wording.survives(child):
                known.add(child)
                scores[child] = questions.score(child)
        ranked = sorted(scores, key=rank)
        return ranked[:size], scores[ranked[0]]


def crossed(first: Words, second: Words, random: Random) -> Words:
    """Each word from one of two parents (uniform crossover)."""
    return tuple(random.choice(pair) for pair in zip(first, second, strict=True))


def mutated(words: Words, vocabulary: Sequence[int], random: Random) -> Words:
    """Two words swapped, or one replaced by another of the vocabulary."""
    changed = list(words)
    if len(words) > 1 and random.random() < 0.5:
        first, second = random.sample(range(len(words)), 2)
        changed[first], changed[second] = changed[second], changed[first]
    else:
        changed[random.randrange(len(words))] = random.choice(vocabulary)
    return tuple(changed)
