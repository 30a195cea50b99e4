"""What a row cost: the attacker in queries and passes, the reader in readability, the defender."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from robust_prefix.evaluation.quality import (
    Qualities,
    QualitySummary,
    mean_by_example,
    summarize_quality,
)
from robust_prefix.evaluation.records import Record
from robust_prefix.evaluation.statistics import Estimate

ESTIMATES = (
    "model_queries_mean",
    "attack_passes_mean",
    "words_changed",
    "similarity",
    "perplexity_ratio",
)
"""Of ``Costs.items``, the names of those that have an interval."""


@dataclass(frozen=True)
class Costs:
    """Means with bootstrap intervals; None where there is nothing to take one of.

    Attributes:
        model_queries: texts the model was really asked about an attacked example, verification
            included; attacks count differently, see ``SummaryRow.queries_mean``.
        attack_passes: forward and backward passes an attacked example.
        prediction: passes one prediction takes, over the one forward pass of a plain prediction.
        quality: of the adversaries that succeeded.
    """

    model_queries: Estimate | None
    attack_passes: Estimate | None
    prediction: float | None
    quality: QualitySummary

    def items(self) -> Iterator[tuple[str, Estimate | float | None]]:
        """Every value under the name it has in a summary."""
        quality = self.quality
        means = (self.model_queries, self.attack_passes)
        found = (quality.words_changed, quality.similarity, quality.perplexity_ratio)
        yield from zip(ESTIMATES, (*means, *found), strict=True)
        yield "prediction_cost", self.prediction


def count_costs(records: Sequence[Record], qualities: Qualities, seed: int = 0) -> Costs:
    """The costs of one system under one protocol.

    Args:
        records: of that system and protocol; for ``worst`` those of each protocol, whose costs
            add up at an example. A replay costs the attacker nothing here: its adversaries were
            paid for elsewhere.
        qualities: of the pairs of texts that were measured.
        seed: of the resampling.
    """
    attacked = [r for r in records if r.protocol != "replay" and r.attacked]
    predictions = [
        record.prediction_forward_passes + (record.prediction_backward_passes or 0)
        for record in records
        if record.prediction_forward_passes is not None
    ]
    return Costs(
        model_queries=_mean(attacked, lambda record: record.model_queries, seed),
        attack_passes=_mean(attacked, _passes, seed),
        prediction=math.fsum(predictions) / len(predictions) if predictions else None,
        quality=summarize_quality(records, qualities, seed),
    )


def _passes(record: Record) -> float:
    # a backward pass to prefix or input, the weights frozen, costs about as much as a forward one
    return record.forward_passes + record.backward_passes


def _mean(
    records: Iterable[Record], value: Callable[[Record], float], seed: int
) -> Estimate | None:
    sums: dict[tuple[str, int], float] = {}
    for record in records:
        place = (record.defense, record.example)
        sums[place] = sums.get(place, 0.0) + value(record)
    return mean_by_example([(example, total) for (_, example), total in sums.items()], seed)
