"""Choosing the number of virtual tokens on dev by short trainings."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_prefix.backbones import Backbone
from robust_prefix.configs import MethodConfig, TrainingConfig
from robust_prefix.data import fingerprint_rows, load_split
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.files import read_json, write_json
from robust_prefix.prefixes import method_of
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import Task
from robust_prefix.training import TextReader, train_prefix

LENGTHS_FILE = "lengths.json"
"""Its name in a run directory."""

GRID = (1, 2, 5, 10, 20, 50)
"""Lengths that are tried."""

MAX_EXAMPLES = 2000
"""Training rows of each short training, which takes one epoch at most."""


@dataclass(frozen=True)
class LengthPoint:
    """What one length came to.

    Attributes:
        length: virtual tokens before the prompt.
        dev_accuracy: the best on dev during its training, 0 to 1.
        dev_examples: how many texts that was measured on.
        parameters: numbers that were learned and kept.
    """

    length: int
    dev_accuracy: float
    dev_examples: int
    parameters: int


@dataclass(frozen=True)
class LengthCurve:
    """Dev accuracy by length.

    Attributes:
        method: name of the method.
        points: from the shortest to the longest.
        settings: of the short trainings, as JSON values.
    """

    method: str
    points: tuple[LengthPoint, ...]
    settings: dict[str, Any]

    @property
    def chosen(self) -> int:
        """The shortest length within one standard error of the best accuracy.

        The rule of Breiman et al. (1984, "Classification and Regression Trees", section 3.4.3):
        what is better by less than the noise of dev is not worth its parameters.
        """
        best = max(self.points, key=lambda point: point.dev_accuracy)
        share = best.dev_accuracy
        error = math.sqrt(share * (1 - share) / best.dev_examples)
        return next(p.length for p in self.points if p.dev_accuracy >= share - error)

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        points = [dataclasses.asdict(point) for point in self.points]
        values = {"method": self.method, "chosen": self.chosen, "points": points}
        write_json(path, {**values, "settings": self.settings})

    @classmethod
    def load(cls, path: str | Path) -> LengthCurve:
        """Read a file of :meth:`save`.

        Raises:
            ArtifactError: the file is missing or is no such curve.
        """
        values = read_json(path)
        try:
            points = tuple(LengthPoint(**point) for point in values["points"])
            return cls(values["method"], points, values["settings"])
        except (KeyError, TypeError):
            raise ArtifactError(f"expected a length curve in {path}, got other JSON") from None


def choose_length(
    backbone: Backbone,
    task: Task,
    *,
    prefix: MethodConfig,
    training: TrainingConfig | None = None,
    grid: Sequence[int] = GRID,
    substitutes: Substitutes | None = None,
    reader: TextReader | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> LengthCurve:
    """Train each length of ``grid`` shortly and measure it on dev.

    Args:
        prefix: settings of the method; its length is not read.
        training: settings of the whole training; here it takes one epoch at most, of
            :data:`MAX_EXAMPLES` rows at most.
        grid: lengths; those that leave no position for a text are left out.
        substitutes, reader: see :func:`robust_prefix.training.train_prefix`.
        out: a folder for ``lengths.json``; a killed search goes on there from the last whole
            length, and one that was finished with the same settings is not done again.

    Raises:
        ConfigError: the method has no length, or every length of ``grid`` is too long.
    """
    if not hasattr(prefix, "length"):
        raise ConfigError(
            f"expected a method with a length to choose, got {method_of(prefix).name!r}"
        )
    training = training or TrainingConfig()
    short = dataclasses.replace(
        training,
        learning_rate=training.learning_rate or method_of(prefix).own_learning_rate(),
        epochs=min(training.epochs, 1.0),
        max_examples=min(training.max_examples or MAX_EXAMPLES, MAX_EXAMPLES),
    )
    room = backbone.max_positions - task.max_tokens
    lengths = sorted({length for length in grid if length <= room})
    if not lengths:
        raise ConfigError(
            f"expected lengths of at most {room} for {backbone.name} beside a text of "
            f"{task.max_tokens} tokens, got {sorted(grid)}; lower the task's max_tokens"
        )
    settings = {
        "prefix": {key: v for key, v in dataclasses.asdict(prefix).items() if key != "length"},
        "training": dataclasses.asdict(short),
        "lengths": lengths,
        "task": task.to_dict(),
        "data": {name: fingerprint_rows(load_split(task, name)) for name in ("train", "dev")},
        "base_model": backbone.name,
        "base_fingerprint": backbone.fingerprint,
        "reader": reader.spec if reader is not None else "none",
        "seed": seed,
    }
    config: Any = prefix  # some configuration with a length
    method = method_of(prefix).name
    if out is not None and (Path(out) / LENGTHS_FILE).is_file():
        before = LengthCurve.load(Path(out) / LENGTHS_FILE)
        if (before.method, before.settings) == (method, settings):
            return before
    points = []
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = Path(out) / "lengths"
        for length in lengths:
            found = train_prefix(
                backbone,
                task,
                prefix=dataclasses.replace(config, length=length),
                training=short,
                substitutes=substitutes,
                reader=reader,
                seed=seed,
                out=folder / str(length),
            )
            accuracy, examples = (found.config[key] for key in ("dev_accuracy", "dev_examples"))
            points.append(LengthPoint(length, accuracy, examples, found.parameters))
    curve = LengthCurve(method, tuple(points), settings)
    if out is not None:
        curve.save(Path(out) / LENGTHS_FILE)
        shutil.rmtree(folder)
    return curve
