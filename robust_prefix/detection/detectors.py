"""The fitted scores of a run, with what they are on clean text they were not fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.detection.base import Score
from robust_prefix.detection.density import Density
from robust_prefix.detection.frequency import Frequency
from robust_prefix.detection.mahalanobis import Mahalanobis
from robust_prefix.detection.margin import Margin
from robust_prefix.detection.residual import Residual
from robust_prefix.errors import ArtifactError, ConfigError, unknown_name

SCORES: dict[str, type[Score]] = {
    score.name: score for score in (Margin, Residual, Mahalanobis, Density, Frequency)
}


@dataclass(frozen=True)
class Calibrated:
    """A score and what it is on clean dev texts.

    Attributes:
        score: the score.
        clean: of the dev texts, in ascending order ``(n,)``.
    """

    score: Score
    clean: Tensor

    def threshold(self, fpr: float) -> float:
        """A threshold that a clean text exceeds with probability ``fpr`` at most.

        The ``ceil((n + 1) (1 - fpr))``-th smallest score on dev: of a text like those on dev, its
        probability over the draw of dev is no more than ``fpr`` whatever the distribution (split
        conformal prediction; Vovk, Gammerman & Shafer 2005).

        Raises:
            ConfigError: there are fewer than ``1 / fpr - 1`` texts, or the rate is none.
        """
        if not 0 < fpr < 1:
            raise ConfigError(f"expected a false-positive rate inside (0, 1), got {fpr}")
        n = len(self.clean)
        rank = math.ceil((n + 1) * (1 - fpr) - 1e-9)
        if rank > n:
            raise ConfigError(
                f"expected at least {math.ceil(1 / fpr - 1 - 1e-9)} dev texts for a false-positive "
                f"rate of {fpr}, got {n}; raise fpr"
            )
        return float(self.clean[rank - 1])

    def scale(self, threshold: float) -> float:
        """How far the median clean text lies below a threshold; 1 where it does not."""
        found = threshold - float(self.clean.median())
        return found if found > 0 else 1.0


@dataclass(frozen=True)
class Detectors:
    """Scores by name, and what made them.

    Attributes:
        scores: by name.
        config: of the fit.
    """

    scores: Mapping[str, Calibrated]
    base_fingerprint: str
    prefix_fingerprint: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Calibrated:
        """A score by name.

        Raises:
            ConfigError: there is no score of that name.
            ArtifactError: it was not fitted for this run.
        """
        if name not in SCORES:
            raise unknown_name("score", name, SCORES)
        if name not in self.scores:
            needs = {"residual": "fit-subspaces", "frequency": "fit-detectors with word lists"}
            raise ArtifactError(
                f"expected the score {name!r} among those fitted for this run "
                f"({', '.join(self.scores)}), got none; run robust-prefix "
                f"{needs.get(name, 'fit-detectors')} and then robust-prefix fit-detectors"
            )
        return self.scores[name]

    def check(self, base_fingerprint: str, prefix_fingerprint: str) -> None:
        """Raise ArtifactError where they were fitted on another model or prefix."""
        mine = (self.base_fingerprint, self.prefix_fingerprint)
        if mine != (base_fingerprint, prefix_fingerprint):
            raise ArtifactError(
                f"expected detectors for base model {base_fingerprint} and prefix "
                f"{prefix_fingerprint}, got ones for {mine[0]} and {mine[1]}; "
                "run robust-prefix fit-detectors on this run"
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file.

        Raises:
            StorageError: writing failed; nothing is left behind.
        """
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for name, calibrated in self.scores.items():
            fitted, values[name] = calibrated.score.pack()
            tensors |= {f"{name}/{part}": tensor for part, tensor in fitted.items()}
            tensors[f"{name}/clean"] = calibrated.clean
        metadata = {
            "base_fingerprint": self.base_fingerprint,
            "prefix_fingerprint": self.prefix_fingerprint,
            "config": dict(self.config),
            "scores": values,
        }
        save_tensors(path, "detectors", tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Detectors:
        """Read a file of :meth:`save`.

        Raises:
            ArtifactError: the file is missing, damaged or does not hold detectors.
        """
        tensors, metadata = load_tensors(path, "detectors")
        try:
            scores = {}
            for name in (name for name in SCORES if name in metadata["scores"]):
                mine = {
                    key.removeprefix(f"{name}/"): tensor
                    for key, tensor in tensors.items()
                    if key.startswith(f"{name}/")
                }
                score = SCORES[name].unpack(mine, metadata["scores"][name])
                scores[name] = Calibrated(score, mine["clean"])
            return cls(
                scores,
                metadata["base_fingerprint"],
                metadata["prefix_fingerprint"],
                metadata["config"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ArtifactError(f"expected fitted detectors in {path}, got {error!r}") from None
