"""The loop of the methods that search for words: batches, dev accuracy, and going on after a kill.

All that is random in a step comes from the seed and the step's number, and what a step leaves is
written down before the next begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_prefix.configs import TrainingConfig
from robust_prefix.data import length_batches
from robust_prefix.errors import ConfigError
from robust_prefix.files import read_json, write_json
from robust_prefix.prefixes.hard_prompt import HardPrompt, Words
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.searched import Score, Searched
from robust_prefix.progress import progress

EVALUATIONS = 10
"""Times that dev accuracy is measured, the start not counted."""

STATE_FILE = "search.json"
"""What a killed search goes on from, in the folder of the checkpoints."""

Row = dict[str, Any]
"""Token ids and label of an encoded text, or one step of the history."""


def check_searchable(method: Searched[Any], training: TrainingConfig) -> None:
    """Raise ConfigError for what only an optimisation has."""
    if training.adversary != "none":
        raise ConfigError(
            f"expected adversary none for {method.name}, whose result is words, got "
            f"{training.adversary!r}; train prompt-tuning against it"
        )
    if training.moving_average:
        raise ConfigError(
            f"expected no moving average for {method.name}, whose result is words, got "
            f"{training.moving_average}; leave it out"
        )


def search_words(
    method: Searched[Any],
    prompt: HardPrompt,
    prompter: Prompter,
    train: Sequence[Row],
    dev: Sequence[Row],
    config: TrainingConfig,
    seed: int,
    folder: Path,
) -> list[Row]:
    """Search, and leave ``prompt`` with the words of the best dev accuracy.

    Args:
        train, dev: with ``ids`` and ``labels``.
        config: the batch size and the patience count.
        folder: for the state that a killed search goes on from.

    Returns:
        A row a step: ``loss`` and ``train_accuracy`` on the step's own batch and, where they were
        measured, ``words`` with their ``dev_accuracy``.
    """
    asked = _Asked(prompt, prompter)
    path = folder / STATE_FILE
    if path.exists():
        state = read_json(path)
        population, history = [tuple(words) for words in state["population"]], state["history"]
    else:
        population, history = [prompt.words], []
    every = max(1, method.steps // EVALUATIONS)

    def measured(words: Words, step: int) -> Row:
        same = [row for row in history if row.get("words") == list(words)]
        accuracy = same[0]["dev_accuracy"] if same else asked.accuracy(words, dev, config)
        return {"step": step, "words": list(words), "dev_accuracy": accuracy}

    if not history:
        history.append(measured(population[0], 0))
    with progress("searching", method.steps, history[-1]["step"]) as advance:
        while (step := history[-1]["step"]) < method.steps and not _stuck(history, config.patience):
            random = Random(seed * 1_000_003 + step)
            batches = asked.drawn(train, config.batch_size, random)
            population, score = method.step(prompt.wording, population, batches, random)
            row = {"step": step + 1, "loss": score.loss, "train_accuracy": score.accuracy}
            if (step + 1) % every == 0 or step + 1 == method.steps:
                row |= measured(population[0], step + 1)
            history.append(row)
            write_json(path, {"population": population, "history": history})
            best = _best(history)["dev_accuracy"]
            advance(step + 1, f"loss {score.loss:.3f} best dev_accuracy {best:.3f}")
    prompt.words = tuple(_best(history)["words"])
    return history


def _evaluated(history: Sequence[Row]) -> list[Row]:
    return [row for row in history if "dev_accuracy" in row]


def _best(history: Sequence[Row]) -> Row:
    """The first of those that are best on dev."""
    return max(_evaluated(history), key=lambda row: row["dev_accuracy"])


def _stuck(history: Sequence[Row], patience: int) -> bool:
    rows = _evaluated(history)
    return 0 < patience <= len(rows) - 1 - rows.index(_best(history))


class _Asked:
    """Losses and accuracies of words on encoded texts."""

    def __init__(self, prompt: HardPrompt, prompter: Prompter) -> None:
        self._prompt = prompt
        self._prompter = prompter

    def drawn(self, train: Sequence[Row], size: int, random: Random) -> _Batches:
        """Two batches of different texts, as far as there are so many."""
        order = random.sample(range(len(train)), min(len(train), 2 * size))
        first, second = order[:size], order[-size:]
        return _Batches(self, [train[i] for i in first], [train[i] for i in second])

    def answers(self, words: Words, rows: Sequence[Row]) -> tuple[Tensor, int]:
        """The loss over the label words, and how many classes are right."""
        backbone = self._prompter.backbone
        batch = backbone.pad([row["ids"] for row in rows])
        labels = torch.tensor([row["labels"] for row in rows], device=backbone.device)
        self._prompt.words = words
        learned = self._prompt(backbone).to(backbone.device, backbone.dtype)
        embedded = backbone.embed(batch, learned.length, learned.inner_tokens)
        state = backbone.run_to_answer(embedded, 0, batch, learned.by_layer())
        logits = learned.scores(backbone, state, self._prompter.label_tokens)
        return cross_entropy(logits, labels), int((logits.argmax(-1) == labels).sum())

    def gradient(self, words: Words, rows: Sequence[Row]) -> Tensor:
        """Of the loss at the words' embeddings ``(words, hidden)``."""
        loss, _ = self.answers(words, rows)
        [gradient] = torch.autograd.grad(loss, [self._prompt.shift])
        return gradient[self._prompt.wording.places].float()

    @torch.no_grad()
    def accuracy(self, words: Words, rows: Sequence[Row], config: TrainingConfig) -> float:
        """Share of ``rows`` that are right."""
        batches = length_batches([len(row["ids"]) for row in rows], 2 * config.batch_size)
        right = (self.answers(words, [rows[i] for i in batch])[1] for batch in batches)
        return sum(right) / len(rows)


class _Batches:
    """One step's two batches; see ``Questions``."""

    def __init__(self, asked: _Asked, first: Sequence[Row], second: Sequence[Row]) -> None:
        self._asked = asked
        self._first = first
        self._second = second

    def gradient(self, words: Words) -> Tensor:
        """See ``Questions``."""
        return self._asked.gradient(words, self._first)

    @torch.no_grad()
    def score(self, words: Words) -> Score:
        """See ``Questions``."""
        loss, right = self._asked.answers(words, self._second)
        return Score(float(loss), right / len(self._second))
