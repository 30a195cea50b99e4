"""Settings of training and fitting, with their defaults: the one place that has them.

Kept apart from the code they steer so that the command line can show them without loading torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

Criterion = Literal["singular-values", "variance"]
MAX_LENGTH = 512
_LAYERS = r"^(all|\d+(-\d+)?(/\d+(-\d+)?)*)$"
_PART = "(encoder|decoder|cross)"


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class PrefixTuningConfig:
    """Settings of prefix-tuning.

    Attributes:
        length: virtual tokens.
        reparameterization: ``none`` trains keys and values themselves; ``mlp`` trains an MLP over
            a small embedding that yields them (section 4.3 of the paper).
        mlp_width: hidden width of that MLP.
        init: starts from the keys and values of real tokens: those of a ``text``, of entries drawn
            from the ``vocabulary``, or of the ``labels``' words filled up with such entries; from
            the mean ``activations`` of training texts, class after class; or from ``random`` noise.
        init_text: the tokens to start from; the task's template and label words where empty.
        layers: those that have a prefix, counted from 0, such as ``0-5`` or ``0-2/27-29``; the
            text in the others attends to itself alone.
        parts: on an encoder-decoder, which attentions have a prefix: the ``encoder``'s, the
            ``decoder``'s own, the decoder's to the text (``cross``), such as ``encoder/cross``.
        answer: what gives the classes at the answer position: the label ``words``, or a linear
            ``head`` that is learned, too; ``auto`` takes words wherever the model has a
            language-model head.
    """

    length: int = Field(default=10, ge=1, le=MAX_LENGTH)
    reparameterization: Literal["none", "mlp"] = "none"
    mlp_width: int = Field(default=512, ge=1)
    init: Literal["text", "vocabulary", "labels", "activations", "random"] = "text"
    init_text: str = ""
    layers: str = Field(default="all", pattern=_LAYERS)
    parts: str = Field(default="all", pattern=rf"^(all|{_PART}(/{_PART})*)$")
    answer: Literal["auto", "words", "head"] = "auto"


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class PTuningV2Config(PrefixTuningConfig):
    """Settings of P-tuning v2: those of prefix-tuning, with a head unless asked for label words."""

    answer: Literal["auto", "words", "head"] = "head"


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class PromptTuningConfig:
    """Settings of prompt tuning.

    Attributes:
        length: virtual tokens before the prompt; those in the task's template come on top.
        init: where their embeddings start: ``uniform`` in [-0.5, 0.5]; entries drawn from the
            ``vocabulary``; the words of the ``labels``, filled up with such entries; the tokens
            of a ``text``.
        init_text: the tokens to start from; the task's template and label words where empty.
    """

    length: int = Field(default=20, ge=0, le=MAX_LENGTH)
    init: Literal["text", "vocabulary", "labels", "uniform"] = "text"
    init_text: str = ""


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class PTuningConfig:
    """Settings of P-tuning.

    Attributes:
        length: virtual tokens before the prompt; those in the task's template come on top.
        encoder: what yields their embeddings while training: a bidirectional ``lstm`` of two
            layers and an MLP over its states, or an ``mlp`` alone.
        encoder_width: hidden width of both.
        init: ``random`` starts from what the encoder gives (the paper); with the others it starts
            from the embeddings that they give in prompt tuning, and the encoder from zero.
        init_text: the tokens to start from; the task's template and label words where empty.
    """

    length: int = Field(default=10, ge=0, le=MAX_LENGTH)
    encoder: Literal["lstm", "mlp"] = "lstm"
    encoder_width: int = Field(default=512, ge=1)
    init: Literal["random", "text", "vocabulary", "labels"] = "random"
    init_text: str = ""


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class GatedPrefixConfig:
    """Settings of a prefix with gates.

    Attributes:
        length: virtual tokens.
        gate: what has a gate in each layer: the ``layer`` as a whole, each ``head`` of the keys and
            values, or each virtual ``token``.
        gated: the ``values`` alone, or keys and values ``both``.
        opening: how open the gates are at first, 0 to 1.
        init, init_text: as in prefix-tuning.
    """

    length: int = Field(default=10, ge=1, le=MAX_LENGTH)
    gate: Literal["layer", "head", "token"] = "head"
    gated: Literal["values", "both"] = "values"
    opening: float = Field(default=0.9, gt=0, lt=1)
    init: Literal["text", "vocabulary", "labels", "activations", "random"] = "text"
    init_text: str = ""


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class ConvPromptConfig:
    """Settings of a prompt that is convolved with the embeddings.

    Attributes:
        width: tokens that each token is mixed from, itself among them.
    """

    width: int = Field(default=5, ge=1, le=MAX_LENGTH)


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class AdaptersConfig:
    """Settings of adapters.

    Attributes:
        width: of the bottleneck.
        places: behind which sublayers they stand: the ``attention`` (in an encoder-decoder that to
            the text, too), the ``feed-forward`` network, or ``both``.
        activation: inside the bottleneck.
        layers, answer: as in prefix-tuning.
    """

    width: int = Field(default=64, ge=1)
    places: Literal["attention", "feed-forward", "both"] = "both"
    activation: Literal["gelu", "relu", "silu", "tanh"] = "gelu"
    layers: str = Field(default="all", pattern=_LAYERS)
    answer: Literal["auto", "words", "head"] = "auto"


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class FineTuningConfig:
    """Settings of fine-tuning.

    Attributes:
        layers: those whose weights are trained, counted from 0, such as ``6-11``; ``all`` trains
            what is outside of them, too: embeddings, the last norm, the language-model head.
        answer: as in prefix-tuning.
    """

    layers: str = Field(default="all", pattern=_LAYERS)
    answer: Literal["auto", "words", "head"] = "auto"


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class ManualPromptConfig:
    """Settings of a prompt that is given.

    Attributes:
        text: what stands before each text, on a line of its own; nothing where empty, and then the
            task's template alone is asked.
    """

    text: str = ""


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class AutoPromptConfig:
    """Settings of the gradient-guided search for words.

    Attributes:
        length: words before the prompt; those of ``{prompt:3}`` in the task's template come on top.
        candidates: how many words are tried for the one that is exchanged in a step.
        steps: words that are exchanged, or kept where no candidate is better.
        init_text: words to start from, filled up with words drawn at random.
    """

    length: int = Field(default=5, ge=0, le=MAX_LENGTH)
    candidates: int = Field(default=20, ge=1)
    steps: int = Field(default=100, ge=1)
    init_text: str = ""


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class EvolvedPromptConfig:
    """Settings of the evolutionary search for words.

    Attributes:
        length: words before the prompt; those of ``{prompt:3}`` in the task's template come on top.
        population: prompts that live at a time, and children of a generation.
        generations: how often children are made and the best kept.
        init_text: words to start from, filled up with words drawn at random.
    """

    length: int = Field(default=5, ge=0, le=MAX_LENGTH)
    population: int = Field(default=16, ge=2)
    generations: int = Field(default=40, ge=1)
    init_text: str = ""


MethodConfig = (
    PrefixTuningConfig
    | GatedPrefixConfig
    | PromptTuningConfig
    | PTuningConfig
    | ConvPromptConfig
    | AdaptersConfig
    | FineTuningConfig
    | ManualPromptConfig
    | AutoPromptConfig
    | EvolvedPromptConfig
)
"""Settings of one of the methods."""


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class TrainingConfig:
    """Settings of the optimisation: AdamW with linear decay, the best state on dev is kept.

    Attributes:
        epochs: passes over the training data.
        learning_rate: of AdamW, falling linearly to zero; the method's own where not given.
        batch_size: examples a step.
        weight_decay: of AdamW.
        moving_average: share of an exponential moving average of the weights that stays in a step,
            such as 0.998; the average is measured on dev and kept in their place. 0 takes none.
        evaluations_per_epoch: how often dev accuracy is measured and a checkpoint written.
        patience: evaluations without a better dev accuracy before training stops; 0 never stops.
        max_examples: train on the first so many rows only; 0 takes all.
        adversary: name and settings of what perturbs the training texts, see
            :mod:`robust_prefix.objectives`; ``none`` trains on clean text alone.
        adversarial_weight: share of the perturbed texts in the loss.
    """

    epochs: float = Field(default=4, gt=0, allow_inf_nan=False)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=16, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    moving_average: float = Field(default=0.0, ge=0, lt=1)
    evaluations_per_epoch: int = Field(default=2, ge=1)
    patience: int = Field(default=0, ge=0)
    max_examples: int = Field(default=0, ge=0)
    adversary: str = "none"
    adversarial_weight: float = Field(default=0.5, ge=0, le=1)


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class SubspaceConfig:
    """Settings of the fit.

    Attributes:
        layers: the paper's ``N``: the first ``N`` states count, the embedding among them, so 3
            reads the outputs of the first two layers.
        threshold: cumulative share the subspace must exceed.
        criterion: share of the singular values (the paper) or of the variance.
        batch_size: examples a pass.
        max_examples: fit on the first so many training rows only; 0 takes all.
    """

    layers: int = Field(default=3, ge=2)
    threshold: float = Field(default=0.99, gt=0, le=1)
    criterion: Criterion = "singular-values"
    batch_size: int = Field(default=32, ge=1)
    max_examples: int = Field(default=0, ge=0)


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class DetectorConfig:
    """Settings of the fit of detectors.

    Attributes:
        layer: number of the layer whose state ``mahalanobis`` and ``density`` read, 0 the
            embedding; -1 is the last.
        components: principal directions that ``density`` keeps.
        rare: share of the training vocabulary's words that ``frequency`` takes for rare.
        batch_size: examples a pass.
        max_examples: fit on the first so many training rows only; 0 takes all.
        seed: of the search for the minimum covariance determinant.
    """

    layer: int = Field(default=-1, ge=-1)
    components: int = Field(default=64, ge=1)
    rare: float = Field(default=0.9, ge=0, le=1)
    batch_size: int = Field(default=32, ge=1)
    max_examples: int = Field(default=10_000, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class WordScoresConfig:
    """Settings of the fit of word scores.

    Attributes:
        limit: how far ahead of another class the classifier beside the scores can put one, in
            units of its own logits; the scores are fitted to that and mean little with another.
        robust_weight: share of the worst case in the loss; the rest is that of clean text.
        pessimism: in the worst case the classifier is this share of ``limit`` on the wrong side.
        largest: bound of one word's score, so that no few words decide alone.
        block: neighbouring words whose say is bounded together, so that words that are put into a
            text decide as little as one; 0 bounds none.
        block_limit: how far ahead of another a block can put a class, in the units of ``limit``.
        weight_decay: of the scores.
        steps: of Adam, on all texts at once.
        learning_rate: of Adam.
        batch_size: texts a pass of the classifier.
    """

    limit: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    robust_weight: float = Field(default=0.5, ge=0, le=1)
    pessimism: float = Field(default=0.5, ge=-1, le=1)
    largest: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    block: int = Field(default=4, ge=0)
    block_limit: float = Field(default=0.5, gt=0)
    weight_decay: float = Field(default=3e-4, ge=0)
    steps: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=0.03, gt=0)
    batch_size: int = Field(default=32, ge=1)


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class DecodingConfig:
    """Settings of the search for the most likely text.

    Attributes:
        beams: beginnings of a text that are kept at each step; 1 is greedy.
        max_new_tokens: a text that has not ended by then is cut.
        length_penalty: exponent of the length that a beam's log-probability is divided by.
    """

    beams: int = Field(default=1, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)
    length_penalty: float = Field(default=1.0, allow_inf_nan=False)


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class SamplingConfig:
    """Settings of texts drawn at random as the model writes them.

    Attributes:
        temperature: of the softmax over the next token.
        top_k: that many of the likeliest tokens are drawn from (Fan, Lewis & Dauphin, ACL 2018).
        max_new_tokens: a text that has not ended by then is left out.
    """

    temperature: float = Field(default=0.85, gt=0)
    top_k: int = Field(default=200, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class ExamplesConfig:
    """Settings of labelled texts that are generated.

    Attributes:
        sampling: how they are drawn.
        min_probability: of its class that a text must have, in the mean of the judges.
        batch_size: texts that are drawn side by side.
    """

    sampling: SamplingConfig = SamplingConfig()
    min_probability: float = Field(default=0.8, ge=0, le=1)
    batch_size: int = Field(default=256, ge=1)
