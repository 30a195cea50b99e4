"""What is fitted to a trained prefix from its task's data: subspaces, and scores of words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from robust_prefix.activations import correct_states
from robust_prefix.backbones import Backbone
from robust_prefix.configs import SubspaceConfig, WordScoresConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.objectives import TextReader
from robust_prefix.prefixes import Prefix, PrefixModel, margins, plain_scores
from robust_prefix.progress import progress
from robust_prefix.subspaces import StreamingCovariance, Subspaces
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import Fields, Task
from robust_prefix.word_fit import cross_fit, fit_scores
from robust_prefix.word_scores import ROUNDING, CrossFitted, WordScores, bounded

_CHUNK = 512  # texts between two looks at the progress bar


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


def fit_word_scores(
    backbone: Backbone,
    prefix: Prefix,
    task: Task,
    substitutes: Substitutes,
    *,
    config: WordScoresConfig | None = None,
    behind: TextReader | None = None,
) -> WordScores:
    """Fit scores of words on the task's train split, beside the classifier's own say.

    Args:
        substitutes: what may stand for a lower-case word; see ``attacks.lexicon``.
        behind: a defence that rewrites text for the model and not for the scores, such as
            ``Synonyms`` in ``word-scores+synonyms``.

    Returns:
        The scores; where there is a dev split their ``config`` says, with n, what share of it is
        right by both together (``dev_clean``), by the words alone (``dev_words``), and by both
        whichever listed substitutes stand there, whatever the classifier says then
        (``dev_guaranteed``).
    """
    config = config or WordScoresConfig()
    model = PrefixModel(backbone, task, prefix)
    rows = load_split(task, "train")
    texts = rows_as_fields(task, rows)
    found = fit_scores(
        texts,
        list(rows["label"]),
        _asked(model, texts, config.batch_size, behind, "training texts"),
        substitutes,
        prefix.fingerprint,
        config,
    )
    if "dev" not in task.splits:
        return found
    rows = load_split(task, "dev")
    texts, truth = rows_as_fields(task, rows), torch.tensor(list(rows["label"]))
    said = bounded(_asked(model, texts, config.batch_size, behind, "dev texts"), config.limit)
    sums = found.sums(texts)
    ahead = [
        found.worst(fields, label, substitutes)
        for fields, label in zip(texts, truth.tolist(), strict=True)
    ]
    shares = {
        "dev_clean": (said + sums).argmax(1) == truth,
        "dev_words": sums.argmax(1) == truth,
        "dev_guaranteed": torch.tensor(ahead) > config.limit + ROUNDING,
    }
    measured = {name: float(right.float().mean()) for name, right in shares.items()}
    return dataclasses.replace(
        found, config={**found.config, **measured, "dev_examples": len(texts)}
    )


def cross_fit_words(
    backbone: Backbone,
    prefix: Prefix,
    task: Task,
    words: WordScores,
    substitutes: Substitutes,
    *,
    folds: int = 5,
    behind: TextReader | None = None,
) -> CrossFitted:
    """Scores for the train split, each text's from a fit without it, to train a prefix beside.

    Args:
        words: of the whole split, fitted beside ``prefix``; they say how the others are fitted.
        substitutes, behind: see :func:`fit_word_scores`.

    Raises:
        InputError: there are fewer texts than folds.
    """
    rows = load_split(task, "train")
    texts = rows_as_fields(task, rows)
    batch_size = int(words.config.get("batch_size", WordScoresConfig().batch_size))
    model = PrefixModel(backbone, task, prefix)
    said = _asked(model, texts, batch_size, behind, "training texts")
    return cross_fit(words, texts, list(rows["label"]), said, substitutes, folds)


def _asked(
    model: PrefixModel,
    texts: Sequence[Fields],
    batch_size: int,
    behind: TextReader | None,
    what: str,
) -> Tensor:
    """The classifier's scores ``(texts, classes)``."""
    found = []
    with progress(what, len(texts)) as advance:
        for start in range(0, len(texts), _CHUNK):
            some = texts[start : start + _CHUNK]
            if behind is not None:
                some = [behind.read(fields) for fields in some]
            found.append(plain_scores(model, model.prompter.encode(some), batch_size))
            advance(start + len(some), "")
    return torch.cat(found)
