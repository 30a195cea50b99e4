"""Training a prefix to say the targets behind their sources (Li & Liang, ACL 2021, equation 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone, CausalBackbone, TokenBatch
from robust_prefix.configs import PrefixTuningConfig, TrainingConfig
from robust_prefix.data import fingerprint_rows
from robust_prefix.errors import ConfigError
from robust_prefix.generation.prompts import decoder, pair_rows
from robust_prefix.generation.tasks import GenerationTask, load_pairs
from robust_prefix.moving_average import averaged
from robust_prefix.prefixes import Prefix, Trainable
from robust_prefix.prefixes.initial import frequent_draw, text_tokens
from robust_prefix.prefixes.prefix_tuning import PrefixTuning, build_parameters
from robust_prefix.trainer import (
    check_finite,
    checkpoint_folder,
    finished,
    keep,
    run_trainer,
    trained_parameters,
)

_IGNORED = -100
"""Label of a position at which nothing is to be said."""


class GenerationObjective(nn.Module):
    """Cross-entropy of the targets' tokens, each behind prefix, source and the target so far.

    Args:
        prefix: the parameters.
        tokens_a_target: on dev, on average: in evaluation the loss is that of a row's tokens over
            this, so that its mean over rows, in whatever batches, is the mean over all tokens.
    """

    def __init__(
        self, backbone: CausalBackbone, prefix: Trainable, tokens_a_target: float = 1.0
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self.tokens_a_target = tokens_a_target
        self._frozen = (backbone,)  # in a tuple: its weights are none of ours

    def forward(
        self, ids: Tensor, answer: Tensor, labels: Tensor, lengths: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The mean loss of the tokens to be said; see ``tokens_a_target``.

        Args:
            ids, answer, lengths: see ``TokenBatch``.
            labels: the token to be said behind each position ``(batch, tokens)``; -100 for none.
        """
        [backbone] = self._frozen
        batch = TokenBatch(ids, answer, lengths)
        learned = self.prefix(backbone).to(backbone.device, backbone.dtype)
        hidden = backbone.embed(batch, learned.length)
        hidden = backbone.run_layers(hidden, 0, backbone.num_layers, batch, learned.by_layer())
        said = labels != _IGNORED
        scores = backbone.next_token_logits(hidden[said])
        if self.training:
            return {"loss": nn.functional.cross_entropy(scores, labels[said])}
        total = nn.functional.cross_entropy(scores, labels[said], reduction="sum")
        return {"loss": total / (len(ids) * self.tokens_a_target)}


def train_generation(
    backbone: Backbone,
    task: GenerationTask,
    *,
    prefix: PrefixTuningConfig | None = None,
    training: TrainingConfig | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Prefix:
    """Train a prefix on a task's train split; the state with the least loss on dev is returned.

    Args:
        prefix: settings of prefix-tuning; in every layer, from ``text``, ``vocabulary`` or
            ``random``.
        training: settings of the optimisation; without an adversary.
        seed: of the start, where it is random, and of the order of the data.
        out: as in :func:`robust_prefix.training.train_prefix`.

    Returns:
        The prefix; its ``config`` holds the settings and the dev loss, in nats a token.

    Raises:
        ConfigError: a setting is for classification alone, the model is no decoder, or ``out``
            holds checkpoints of other settings.
        InputError: the data does not fit the task or the model.
    """
    from transformers import set_seed

    model = decoder(backbone)
    config = prefix or PrefixTuningConfig()
    training = training or TrainingConfig()
    rate = training.learning_rate or PrefixTuning(config).own_learning_rate()
    training = dataclasses.replace(training, learning_rate=rate)
    _check(config, training)
    set_seed(seed)
    pairs = load_pairs(task, "train")
    pairs = pairs[: training.max_examples or len(pairs)]
    dev_pairs = load_pairs(task, "dev")
    train, dev = (
        [_labelled(*row) for row in pair_rows(model, task, rows)] for rows in (pairs, dev_pairs)
    )
    longest = max(len(row["ids"]) for row in (*train, *dev))
    if config.length + longest > model.max_positions:
        raise ConfigError(
            f"expected at most {model.max_positions} positions for {model.name}, got "
            f"{config.length} virtual tokens and a text of {longest}; lower the length or shorten "
            "the texts"
        )
    settings = {
        "method": PrefixTuning.name,
        "prefix": dataclasses.asdict(config),
        "training": dataclasses.asdict(training),
        "seed": seed,
        "generation_task": task.to_dict(),
        "train_examples": len(train),
        "data": {
            "train": fingerprint_rows(map(dataclasses.asdict, pairs)),
            "dev": fingerprint_rows(map(dataclasses.asdict, dev_pairs)),
        },
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    folder = Path(out) if out is not None else None
    if folder is not None and (before := finished(folder, settings, model)) is not None:
        return before
    said = sum(token != _IGNORED for row in dev for token in row["labels"])
    parameters = build_parameters(_start(model, task, config), config)
    objective = GenerationObjective(
        model, averaged(parameters, training.moving_average), said / len(dev)
    )
    with checkpoint_folder(folder, {**settings, "base": model.fingerprint}) as checkpoints:
        history = run_trainer(
            objective,
            rate,
            train,
            dev,
            lambda rows: _collate(model, rows),
            training,
            seed,
            checkpoints,
            model.device,
        )
    found = {
        "dev_loss": min(row["dev_loss"] for row in history if "dev_loss" in row),
        "dev_examples": len(dev),
        "trained_parameters": trained_parameters(objective),
    }
    objective.eval()  # a moving average is what is measured, and so what is kept
    with torch.no_grad():
        trained = Prefix.of(objective.prefix(model), model, {**settings, **found})
    check_finite(trained)
    if folder is not None:
        keep(folder, trained, settings, history)
    return trained


def _check(config: PrefixTuningConfig, training: TrainingConfig) -> None:
    """Refuse what only a classifier can be trained with."""
    if config.layers != "all" or config.parts != "all":
        raise ConfigError(
            f"expected a prefix in every layer to generate with, got layers={config.layers} and "
            f"parts={config.parts}; leave them out"
        )
    if config.answer == "head" or config.init in ("labels", "activations"):
        raise ConfigError(
            "expected settings that need no classes, got "
            f"{'answer=head' if config.answer == 'head' else f'init={config.init}'}; start from "
            "text, vocabulary or random"
        )
    if training.adversary != "none":
        raise ConfigError(
            f"expected adversary=none to train generation, got {training.adversary!r}; an "
            "adversary perturbs what is classified"
        )


def _start(backbone: Backbone, task: GenerationTask, config: PrefixTuningConfig) -> Tensor:
    """Where training starts; see :func:`robust_prefix.prefixes.prefix_tuning.initial_prefix`."""
    if config.init == "random":
        return torch.randn(backbone.prefix_shape(config.length)) * 0.02
    if config.init == "vocabulary":
        tokens = frequent_draw(backbone, config.length)
    else:
        tokens = text_tokens(backbone, config.init_text or task.render(""), config.length)
    return backbone.token_keys_and_values(tokens).cpu()


def _labelled(tokens: list[int], prompt: int) -> dict[str, Any]:
    """One row: each token's label is the next one, from the last token of the prompt on."""
    return {"ids": tokens[:-1], "labels": [*[_IGNORED] * (prompt - 1), *tokens[prompt:]]}


def _collate(backbone: Backbone, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    batch = backbone.pad([row["ids"] for row in rows])
    labels = torch.full(batch.ids.shape, _IGNORED, device=backbone.device)
    for number, row in enumerate(rows):
        labels[number, : len(row["labels"])] = torch.tensor(row["labels"])
    return {
        "ids": batch.ids,
        "answer": batch.answer,
        "labels": labels,
        "lengths": batch.lengths,
    }
