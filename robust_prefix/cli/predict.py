"""``robust-prefix predict``: texts on stdin, one JSON object a line on stdout."""

from __future__ import annotations

import dataclasses
import json as json_module
import sys

from robust_prefix.cli.common import (
    DataDirOption,
    DefenseOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    RunArgument,
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json
from robust_prefix.errors import InputError


@command
def predict(
    run: RunArgument,
    defense: DefenseOption = "default",
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Classify each line of stdin; for tasks of several columns a line is a JSON list of them.

    All lines are checked before the first answer is written.
    """
    from robust_prefix.classifier import PrefixClassifier

    lines = _read_lines()
    classifier = PrefixClassifier.from_pretrained(
        run, defense, device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    several = len(classifier.task.columns) > 1
    texts = [_columns(line, number) if several else line for number, line in enumerate(lines)]
    for text, answer in zip(lines, classifier.classify(texts), strict=True):
        print_json({"text": text, **dataclasses.asdict(answer)})


def _read_lines() -> list[str]:
    """The lines of stdin; only a line feed ends one, for a text may hold any other separator."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected UTF-8 text on stdin, got byte {error.object[error.start]:#x} "
            f"at {error.start}"
        ) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError("expected at least one line of text on stdin, got nothing")
    return lines


def _columns(line: str, number: int) -> list[str]:
    try:
        values = json_module.loads(line)
    except json_module.JSONDecodeError:
        values = None
    if not isinstance(values, list):
        raise InputError(
            f"expected a JSON list of the task's columns in line {number}, got {line[:60]!r}"
        )
    return values
