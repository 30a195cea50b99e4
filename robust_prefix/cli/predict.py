"""``robust-prefix predict``: texts on stdin, one JSON object a line on stdout."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import Annotated, Any

import typer

from robust_prefix.cli.common import (
    DataDirOption,
    DefenseOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json
from robust_prefix.cli.stdin import read_lines
from robust_prefix.errors import InputError


@command
def predict(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run directories, or zoo:NAME.")],
    defense: DefenseOption = "default",
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Classify each line of stdin; for tasks of several columns a line is a JSON list of them.

    With several runs, of different tasks on one base model, a line is a JSON object such as
    {"task": "sst2", "text": "..."}; the model is loaded once, undefended runs answer in mixed
    batches and each of the others by its own defence.
    All lines are checked before the first answer is written.
    """
    from robust_prefix.serving import PrefixServer

    lines = read_lines()
    server = PrefixServer.from_pretrained(
        runs, defense, device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    if len(runs) > 1:
        requests = [_request(line, number) for number, line in enumerate(lines, 1)]
        for number, (task, text) in enumerate(requests, 1):
            if task in server.classifiers:  # the server knows what to say of others
                server.classifiers[task].task.fields(text, f"line {number}")
        for (task, text), answer in zip(requests, server.classify(requests), strict=True):
            print_json({"task": task, "text": text, **dataclasses.asdict(answer)})
        return
    [classifier] = server.classifiers.values()
    several = len(classifier.task.columns) > 1
    texts = [
        classifier.task.fields(_columns(line, number) if several else line, f"line {number}")
        for number, line in enumerate(lines, 1)
    ]
    for text, answer in zip(lines, classifier.classify(texts), strict=True):
        print_json({"text": text, **dataclasses.asdict(answer)})


def _columns(line: str, number: int) -> list[str]:
    values = _json(line)
    if not isinstance(values, list):
        raise InputError(
            f"expected a JSON list of the task's columns in line {number}, got {line[:60]!r}"
        )
    return values


def _request(line: str, number: int) -> tuple[str, Any]:
    values = _json(line)
    if not (
        isinstance(values, dict)
        and set(values) == {"task", "text"}
        and isinstance(values["task"], str)
    ):
        raise InputError(
            'expected a JSON object such as {"task": "sst2", "text": "..."} in line '
            f"{number}, got {line[:60]!r}"
        )
    return values["task"], values["text"]


def _json(line: str) -> Any:
    """What a line of JSON holds; None where it is none."""
    try:
        return json_module.loads(line)
    except (ValueError, RecursionError):  # also a number too long, or lists too deep, to be read
        return None
