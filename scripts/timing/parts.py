"""The five parts, each run at its scale."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from robust_prefix.classifier import PrefixClassifier
from timing import accuracy, defended, equality, growth, queries, subspace_fit, train_speed
from timing.material import Material, load_material
from timing.results import Plan, Row
from timing.scale import Scale

Found = tuple[list[Row], dict[str, Any]]
"""The rows of a part, and what else belongs into the document."""


class Parts:
    """The parts of one run of ``scripts/speed.py``, with what they share.

    Args:
        options: ``run``, ``data_dir``, ``device``, ``seed``, ``repeats`` and ``accuracy``.
        test: texts to answer.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        scale: Scale,
        classifier: PrefixClassifier,
        test: Material,
    ) -> None:
        self.options = options
        self.scale = scale
        self.classifier = classifier
        self.test = test
        self._differences: dict[str, float] = {}

    def part(self, name: str) -> Found:
        """Measure one part: its rows, and what else belongs into the document."""
        return {
            "a": self._defense,
            "b": self._queries,
            "c": self._training,
            "d": self._subspaces,
            "e": self._growth,
        }[name]()

    def _plan(self, part: str, warmup: int = 1) -> Plan:
        rounds = self.options.repeats or self.scale.rounds[part]
        return Plan(rounds, self.options.seed, warmup)

    def _defense(self) -> Found:
        sizes = (1, max(self.scale.sizes))
        exact = self._in_float32()
        self._differences |= equality.literal_differences(exact, self.test, sizes)
        rows = defended.measure(self.classifier, self.test, self._plan("a"), self.scale.sizes)
        return rows, {"differences": self._differences}

    def _queries(self) -> Found:
        options, scale = self.options, self.scale
        sentences = options.repeats or scale.sentences
        attack = queries.choose_attack(options.data_dir)
        recorded = queries.record(
            self.classifier,
            self.test,
            attack,
            options.data_dir,
            options.seed,
            sentences,
            scale.queries,
        )
        candidates = [text for call in recorded[0] for text in call][:8]
        self._differences |= equality.wrapper_differences(
            self._in_float32(), candidates, options.data_dir
        )
        plan = Plan(len(recorded), options.seed, warmup=0)
        rows = queries.measure(self.classifier, recorded, plan, options.data_dir)
        calls = [[len(call) for call in of_text] for of_text in recorded]
        return rows, {"attack": attack, "calls": calls, "differences": self._differences}

    def _training(self) -> Found:
        scale, seed = self.scale, self.options.seed
        train = load_material(self.classifier.task, "train", seed)
        rows = train_speed.measure(
            self.classifier, train, self._plan("c", warmup=0), scale.batch, scale.examples
        )
        found = {"train_texts": train.source}
        if not self.options.accuracy:
            return rows, found
        test = self.test.window(0, min(scale.tested, len(self.test.texts)))
        lines = accuracy.measure(self.classifier, train, test, scale.batch, scale.steps, seed)
        return rows, found | {"accuracy": lines}

    def _subspaces(self) -> Found:
        states = subspace_fit.real_states(self.classifier, self.test, self.scale.states)
        plan = self._plan("d", warmup=0)
        rows, angles = subspace_fit.measure(states, plan, self.scale.counts)
        return rows, {"angles": angles, "states": len(states)}

    def _growth(self) -> Found:
        return growth.measure(self.classifier, self.test, self._plan("e"), self.scale.values), {}

    def _in_float32(self) -> PrefixClassifier:
        """The classifier itself, or the same in the type in which equality can be told."""
        if self.classifier.model.backbone.dtype == torch.float32:
            return self.classifier
        return PrefixClassifier.from_pretrained(
            self.options.run,
            "none",
            device=self.options.device,
            dtype="float32",
            data_dir=self.options.data_dir,
        )
