"""Attacks on defended classifiers: run, recorded, counted and reported.

Names are loaded when they are first used, so that importing ``evaluation.protocols`` for its types
costs neither scipy nor rich.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robust_prefix.evaluation.counting import summarize
    from robust_prefix.evaluation.outputs import write_results
    from robust_prefix.evaluation.protocols import (
        PROTOCOLS,
        Attack,
        Attempt,
        Classifier,
        Example,
        Victim,
    )
    from robust_prefix.evaluation.records import Manifest, Record
    from robust_prefix.evaluation.report import render_report
    from robust_prefix.evaluation.results import Results
    from robust_prefix.evaluation.runner import Progress, evaluate
    from robust_prefix.evaluation.store import RecordStore
    from robust_prefix.evaluation.summary import Summary, SummaryRow, headline
    from robust_prefix.evaluation.tables import changed_text, print_summary, summary_table
    from robust_prefix.evaluation.trial import CountingVictim, System

__all__ = [
    "PROTOCOLS",
    "Attack",
    "Attempt",
    "Classifier",
    "CountingVictim",
    "Example",
    "Manifest",
    "Progress",
    "Record",
    "RecordStore",
    "Results",
    "Summary",
    "SummaryRow",
    "System",
    "Victim",
    "changed_text",
    "evaluate",
    "headline",
    "print_summary",
    "render_report",
    "summarize",
    "summary_table",
    "write_results",
]

_MODULES = {
    "counting": ("summarize",),
    "outputs": ("write_results",),
    "protocols": ("PROTOCOLS", "Attack", "Attempt", "Classifier", "Example", "Victim"),
    "records": ("Manifest", "Record"),
    "report": ("render_report",),
    "results": ("Results",),
    "runner": ("Progress", "evaluate"),
    "store": ("RecordStore",),
    "summary": ("Summary", "SummaryRow", "headline"),
    "tables": ("changed_text", "print_summary", "summary_table"),
    "trial": ("CountingVictim", "System"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
