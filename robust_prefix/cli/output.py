"""What commands say: JSON lines and the table of a run on stdout, where files are on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from robust_prefix.evaluation.summary import Summary


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show_summary(summary: Summary, folder: Path, as_json: bool) -> None:
    """The table of a run; with ``as_json`` its headline as the one line on stdout instead."""
    from robust_prefix.evaluation.summary import headline
    from robust_prefix.evaluation.tables import print_summary

    print_summary(summary, Console(stderr=as_json))
    print(f"report: {folder / 'report.html'}", file=sys.stderr)
    if as_json:
        print_json(headline(summary, summary.manifest.defense, summary.manifest.protocol))
