"""Detectors from a task's data: fitted on train, calibrated on dev, no adversary in sight."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from robust_prefix.backbones import Backbone
from robust_prefix.configs import DetectorConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.detection.base import Score, see
from robust_prefix.detection.density import Density
from robust_prefix.detection.detectors import Calibrated, Detectors
from robust_prefix.detection.frequency import fit_frequency
from robust_prefix.detection.mahalanobis import Mahalanobis
from robust_prefix.detection.margin import Margin
from robust_prefix.detection.residual import Residual
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.progress import progress
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Task

_CHUNK = 256  # texts between two looks at the progress bar


def fit_detectors(
    backbone: Backbone,
    prefix: Prefix,
    task: Task,
    *,
    subspaces: Subspaces | None = None,
    substitutes: Callable[[str], Sequence[str]] | None = None,
    config: DetectorConfig | None = None,
) -> Detectors:
    """Fit every score there is something to fit from.

    States are those of correctly classified training texts; a class with fewer than two of them is
    left out. What each score is on clean text is
    read off all dev texts, so that a threshold can be chosen for any false-positive rate.

    Args:
        subspaces: the run's; without them there is no ``residual``.
        substitutes: synonyms of a lower-case word; without them there is no ``frequency``.

    Raises:
        ConfigError: the model has no such layer, or the task no dev split.
        InputError: of no class two training texts are classified correctly.
    """
    config = config or DetectorConfig()
    if config.layer > backbone.num_layers:
        raise ConfigError(
            f"expected a layer of 0 to {backbone.num_layers} of {backbone.name}, got {config.layer}"
        )
    layer = backbone.num_layers if config.layer < 0 else config.layer
    model = PrefixModel(backbone, task, prefix)
    if subspaces is not None:
        subspaces.check(backbone.fingerprint, prefix.fingerprint)
    dev = rows_as_fields(task, load_split(task, "dev"))
    rows = load_split(task, "train")
    everything = rows_as_fields(task, rows)
    if config.max_examples:
        rows = rows.select(range(min(config.max_examples, len(rows))))
    texts, labels = everything[: len(rows)], np.asarray(rows["label"])
    states, answers = _states(model, texts, layer, config.batch_size)
    right = (answers == labels) & np.isin(labels, _enough(labels[answers == labels], len(texts)))
    if len(states) and not np.ptp(states[right], axis=0).any():
        raise ConfigError(
            f"expected a layer whose states tell texts apart, got layer {layer}, where all of them "
            "have the same state at the answer position; take a later one"
        )
    scores: list[Score] = [Margin()]
    if subspaces is not None:
        scores.append(Residual(subspaces.layers))
    scores.append(Mahalanobis.fit(layer, states[right], labels[right]))
    scores.append(Density.fit(layer, states[right], labels[right], config.components, config.seed))
    if substitutes is not None:
        scores.append(fit_frequency(everything, substitutes, config.rare))
    seen = see(model, dev, sorted({j for score in scores for j in score.layers}), config.batch_size)
    return Detectors(
        {
            score.name: Calibrated(score, score(seen).float().cpu().sort().values)
            for score in scores
        },
        base_fingerprint=backbone.fingerprint,
        prefix_fingerprint=prefix.fingerprint,
        config={
            **dataclasses.asdict(config),
            "layer": layer,
            "examples": len(texts),
            "correct": int(right.sum()),
            "dev": len(dev),
        },
    )


def _states(
    model: PrefixModel, texts: Sequence[tuple[str, ...]], layer: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The states ``(n, hidden)`` and the answers ``(n,)``."""
    states = np.empty((len(texts), model.backbone.hidden_size), dtype=np.float32)
    answers = np.empty(len(texts), dtype=np.int64)
    with progress("activations", len(texts)) as advance:
        for start in range(0, len(texts), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            seen = see(model, texts[chunk], (layer,), batch_size)
            states[chunk] = seen.states[layer].numpy()
            answers[chunk] = seen.logits.argmax(-1).numpy()
            advance(min(start + _CHUNK, len(texts)), "")
    return states, answers


def _enough(labels: np.ndarray, texts: int) -> np.ndarray:
    """The classes with two texts or more; labels are those of the correctly classified ones."""
    classes, counts = np.unique(labels, return_counts=True)
    found: np.ndarray = classes[counts > 1]
    if not len(found):
        raise InputError(
            f"expected at least 2 correctly classified examples to fit on, got {len(labels)} of "
            f"{texts}; train the prefix first"
        )
    return found
