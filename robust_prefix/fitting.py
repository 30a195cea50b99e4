"""Subspaces from a task's training data: activations streamed into one scatter matrix a layer."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from robust_prefix.activations import correct_states
from robust_prefix.backbones import Backbone
from robust_prefix.configs import SubspaceConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.prefixes import Prefix, PrefixModel, margins, plain_scores
from robust_prefix.progress import progress
from robust_prefix.subspaces import StreamingCovariance, Subspaces
from robust_prefix.tasks import Task


def fit_subspaces(
    backbone: Backbone,
    prefix: Prefix,
    task: Task,
    *,
    config: SubspaceConfig | None = None,
) -> Subspaces:
    """Fit one subspace a layer on the task's train split.

    Memory stays flat in the number of examples: one scatter matrix a layer. The margins of the
    plain answers on dev are stored with them, for the defence ``gate``.

    Raises:
        ConfigError: the model has fewer layers than the settings ask for.
        InputError: fewer than two training examples are classified correctly.
    """
    config = config or SubspaceConfig()
    if config.layers > backbone.num_layers + 1:
        raise ConfigError(
            f"expected at most {backbone.num_layers + 1} layers for {backbone.name} (the embedding "
            f"counts), got {config.layers}"
        )
    model = PrefixModel(backbone, task, prefix)
    rows = load_split(task, "train")
    if config.max_examples:
        rows = rows.select(range(min(config.max_examples, len(rows))))
    layers = range(config.layers)
    statistics = {layer: StreamingCovariance(backbone.hidden_size) for layer in layers}
    texts, labels = rows_as_fields(task, rows), list(rows["label"])
    with progress("activations", len(texts)) as advance:
        seen = 0
        for count, states in correct_states(model, texts, labels, layers, config.batch_size):
            for layer, values in states.items():
                statistics[layer].update(values)
            seen += count
            advance(seen, "")
    correct = statistics[0].count
    if correct < 2:
        raise InputError(
            f"expected at least 2 correctly classified examples to fit on, got {correct} of "
            f"{len(texts)}; train the prefix first"
        )
    fitted = {
        layer: statistics[layer].subspace(config.threshold, config.criterion) for layer in layers
    }
    return Subspaces(
        fitted,
        base_fingerprint=backbone.fingerprint,
        prefix_fingerprint=prefix.fingerprint,
        config={
            **dataclasses.asdict(config),
            "examples": len(texts),
            "correct": correct,
            "ranks": {str(layer): subspace.rank for layer, subspace in fitted.items()},
        },
        margins=_dev_margins(model, config.batch_size) if "dev" in task.splits else None,
    )


def _dev_margins(model: PrefixModel, batch_size: int) -> Tensor:
    """Quantiles of the plain answers' margins on dev, ``(101,)``."""
    texts = rows_as_fields(model.task, load_split(model.task, "dev"))
    scores = plain_scores(model, model.prompter.encode(texts), batch_size)
    return margins(scores).quantile(torch.linspace(0, 1, 101))
