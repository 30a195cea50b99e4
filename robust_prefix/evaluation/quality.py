"""What an adversary costs its reader: words changed, likeness in meaning, perplexity.

Scores are of a pair of texts, so one is computed once however many records show it, and is kept
in the store. Each text is scored alone: a resumed run, which scores what is left, gives the same
numbers as one that was never killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from robust_prefix.evaluation.diff import count_words, words_changed
from robust_prefix.evaluation.records import Record
from robust_prefix.evaluation.statistics import Estimate, bootstrap_ratio
from robust_prefix.tasks import Fields

if TYPE_CHECKING:
    import torch

    from robust_prefix.evaluation.store import RecordStore

KIND = "quality"
"""Under which the store keeps what was measured."""

_DIGITS = 4
_MAX_NATS = 100.0  # a word; a perplexity beyond e^100 says no more than that one


class Encoder(Protocol):
    """Turns sentences into vectors whose cosine says how alike they are in meaning."""

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors: float32 ``(len(texts), hidden)``."""
        ...


@runtime_checkable
class LanguageModel(Protocol):
    """Predicts texts; :class:`robust_prefix.backbones.CausalBackbone` is one."""

    def log_likelihood(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Of each text: sum of log-probabilities in nats, and of how many tokens."""
        ...


def as_language_model(backbone: object) -> LanguageModel | None:
    """``backbone`` where it predicts texts; an encoder does not."""
    return backbone if isinstance(backbone, LanguageModel) else None


@dataclass(frozen=True)
class Scorers:
    """What pairs are scored with; what is not given leaves its column empty."""

    language_model: LanguageModel | None = None
    encoder: Encoder | None = None


@dataclass(frozen=True)
class Quality:
    """How far an adversarial text is from its original, over the columns that were changed.

    Attributes:
        words: words of the original.
        words_changed: how many were replaced, removed or inserted.
        similarity: cosine of the sentence encoder's vectors, mean over columns; None without an
            encoder.
        perplexity_original: per word under the frozen model without prefix: e to the mean
            negative log-likelihood a word. Words, and not tokens, because a misspelt word falls
            into many tokens that predict one another well. None without a model.
        perplexity_adversarial: the same of the adversary.
    """

    words: int
    words_changed: int
    similarity: float | None = None
    perplexity_original: float | None = None
    perplexity_adversarial: float | None = None

    @property
    def share_changed(self) -> float:
        """Changed words over words of the original; above 1 where many were inserted."""
        return self.words_changed / max(1, self.words)

    @property
    def perplexity_ratio(self) -> float | None:
        """Perplexity of the adversary over that of the original."""
        if self.perplexity_original is None or self.perplexity_adversarial is None:
            return None
        return self.perplexity_adversarial / self.perplexity_original


Pair = tuple[Fields, Fields]
"""An original and its adversary."""

Qualities = Mapping[str, Quality]
"""By ``pair_key``."""


def pair_key(record: Record) -> str:
    """What identifies the pair of texts of ``record``, and the model that judges it."""
    pair = json.dumps([record.model, record.original, record.adversarial])
    return hashlib.blake2b(pair.encode(), digest_size=16).hexdigest()


def unmeasured(store: RecordStore, records: Iterable[Record], similarity: bool) -> dict[str, Pair]:
    """The pairs of ``records`` that ``store`` has no score of, by ``pair_key``.

    Args:
        similarity: whether one without a similarity is to be scored again: there is an encoder
            now. Perplexities are there from the beginning.
    """
    known = read_qualities(store)
    left: dict[str, Pair] = {}
    for record in records:
        if record.adversarial is None or record.prediction_adversarial is None:
            continue  # no adversary, or one that no system could be asked about
        key = pair_key(record)
        if key not in known or (similarity and known[key].similarity is None):
            left[key] = record.original, record.adversarial
    return left


def measure_quality(
    store: RecordStore,
    pairs: Mapping[str, Pair],
    scorers: Scorers,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Score pairs of texts and keep each score as soon as it is there.

    Args:
        pairs: see ``unmeasured``; of records of the one model that ``scorers`` holds.
        on_progress: called after each pair with the number done.

    Raises:
        StorageError: a score could not be written.
    """
    for done, (key, pair) in enumerate(pairs.items(), start=1):
        store.put(KIND, key, dataclasses.asdict(measure(*pair, scorers)))
        if on_progress is not None:
            on_progress(done)


def read_qualities(store: RecordStore) -> dict[str, Quality]:
    """Everything that was measured so far."""
    found: Mapping[str, Any] = store.items(KIND)
    return {key: Quality(**value) for key, value in found.items()}


def measure(original: Fields, adversarial: Fields, scorers: Scorers) -> Quality:
    """The quality of one pair; columns that stayed as they were do not count."""
    columns = list(zip(original, adversarial, strict=True))
    changed = [pair for pair in columns if pair[0] != pair[1]] or columns
    before, after = zip(*changed, strict=True)
    model, encoder = scorers.language_model, scorers.encoder
    return Quality(
        words=sum(map(count_words, before)),
        words_changed=sum(words_changed(*pair) for pair in changed),
        similarity=None if encoder is None else _similarity(encoder, changed),
        perplexity_original=None if model is None else _perplexity(model, before),
        perplexity_adversarial=None if model is None else _perplexity(model, after),
    )


@dataclass(frozen=True)
class QualitySummary:
    """Means over successful adversaries, each with its bootstrap interval; None where unknown.

    Attributes:
        words_changed: share of the words.
        similarity: cosine.
        perplexity_ratio: geometric mean of adversarial over original perplexity per word: that
            of a text whose perplexity doubles and one whose halves is 1.
    """

    words_changed: Estimate | None
    similarity: Estimate | None
    perplexity_ratio: Estimate | None


def summarize_quality(
    records: Iterable[Record], qualities: Qualities, seed: int = 0
) -> QualitySummary:
    """The means over those of ``records`` that succeeded and whose pair was measured."""
    found = [
        (record, qualities[key])
        for record in records
        if record.outcome == "succeeded" and (key := pair_key(record)) in qualities
    ]

    def mean(value: Callable[[Quality], float | None]) -> Estimate | None:
        return mean_by_example(
            [(record.example, value(quality)) for record, quality in found], seed
        )

    logs = mean(lambda quality: quality.perplexity_ratio and math.log(quality.perplexity_ratio))
    return QualitySummary(
        words_changed=mean(lambda quality: quality.share_changed),
        similarity=mean(lambda quality: quality.similarity),
        perplexity_ratio=logs and _exponential(logs),
    )


def mean_by_example(values: Iterable[tuple[int, float | None]], seed: int = 0) -> Estimate | None:
    """The mean of values given with their example, resampled by example.

    Values of one example, such as those under several control seeds, are not independent. None
    counts for no value.
    """
    groups: dict[int, list[float]] = {}
    for example, value in values:
        if value is not None:
            groups.setdefault(example, []).append(value)
    sums = [math.fsum(group) for group in groups.values()]
    return bootstrap_ratio(sums, list(map(len, groups.values())), seed)


def _exponential(logs: Estimate) -> Estimate:
    value = None if logs.value is None else math.exp(logs.value)
    return Estimate(value, math.exp(logs.low), math.exp(logs.high))


def _similarity(encoder: Encoder, pairs: Sequence[tuple[str, str]]) -> float:
    cosines = []
    for pair in pairs:
        # one call a text: padding to a common length moves the last digits
        first, second = (encoder.encode([text])[0].double() for text in pair)
        cosines.append(float(first @ second))
    return round(math.fsum(cosines) / len(cosines), _DIGITS)


def _perplexity(model: LanguageModel, texts: Sequence[str]) -> float | None:
    scored = model.log_likelihood(texts)
    if not any(tokens for _, tokens in scored):
        return None  # nothing but first tokens, which nothing predicts
    nats = -math.fsum(total for total, _ in scored) / max(1, sum(map(count_words, texts)))
    return round(math.exp(min(nats, _MAX_NATS)), _DIGITS)
