"""Write the generated parts of README.md: the commands' help and the table of a demo run.

python scripts/readme.py                     # help only
python scripts/readme.py --demo demo-report  # and the table of that run
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

import click
import typer
from rich.console import Console

from robust_prefix.cli.app import app
from robust_prefix.evaluation.bench import DATABASE
from robust_prefix.evaluation.results import Results
from robust_prefix.evaluation.store import RecordStore
from robust_prefix.evaluation.tables import print_summary
from robust_prefix.files import write_text

README = Path(__file__).resolve().parents[1] / "README.md"
WIDTH = 96


def help_text() -> str:
    """The help of every command, without a terminal's frames and colours."""
    group = typer.main.get_command(app)
    parent = click.Context(group, info_name="robust-prefix")
    parts = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        command.rich_markup_mode = None
        context = click.Context(command, info_name=name, parent=parent, max_content_width=WIDTH)
        context.terminal_width = WIDTH
        parts.append(command.get_help(context))
    return "\n\n\n".join(parts)


def demo_table(results: Path) -> str:
    """What ``robust-prefix report`` prints for a run, as plain text."""
    with RecordStore(results / DATABASE) as store:
        [results] = Results.read(store)
    page = io.StringIO()
    print_summary(results.summary, Console(file=page, width=WIDTH, color_system=None))
    return "\n".join(line.rstrip() for line in page.getvalue().strip("\n").splitlines())


def replaced(readme: str, marker: str, text: str) -> str:
    """``readme`` with ``text`` as a code block between the marker's start and end."""
    block = f"<!-- {marker}:start -->\n```\n{text}\n```\n<!-- {marker}:end -->"
    pattern = re.compile(f"<!-- {marker}:start -->.*?<!-- {marker}:end -->", re.DOTALL)
    changed, count = pattern.subn(lambda _: block, readme)
    if count != 1:
        raise ValueError(f"expected the marker {marker!r} once in the README, got it {count} times")
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, help="results folder of a demo run")
    parser.add_argument("--out", type=Path, default=README)
    arguments = parser.parse_args()
    text = replaced(README.read_text(encoding="utf-8"), "help", help_text())
    if arguments.demo is not None:
        text = replaced(text, "demo-table", demo_table(arguments.demo))
    write_text(arguments.out, text)


if __name__ == "__main__":
    main()
