"""Scores that tell altered text from clean text, fitted on clean text alone."""

from __future__ import annotations

from robust_prefix.detection.base import Score, Seen, see
from robust_prefix.detection.decisions import Decisions, as_attacked
from robust_prefix.detection.density import Density
from robust_prefix.detection.detectors import SCORES, Calibrated, Detectors
from robust_prefix.detection.frequency import Frequency, fit_frequency
from robust_prefix.detection.mahalanobis import Mahalanobis
from robust_prefix.detection.margin import Margin
from robust_prefix.detection.residual import Residual

__all__ = [
    "SCORES",
    "Calibrated",
    "Decisions",
    "Density",
    "Detectors",
    "Frequency",
    "Mahalanobis",
    "Margin",
    "Residual",
    "Score",
    "Seen",
    "as_attacked",
    "fit_frequency",
    "see",
]
