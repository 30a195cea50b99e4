"""One HTML page about one run or several, complete in itself."""

from robust_prefix.evaluation.report.html import render_report

__all__ = ["render_report"]
