"""BLEU of generated texts, by ``sacrebleu`` (Post, WMT 2018)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from robust_prefix.errors import InputError, ResourceError
from robust_prefix.generation.tasks import Pair


@dataclass(frozen=True)
class Bleu:
    """A corpus score.

    Attributes:
        score: 0 to 100.
        n: texts that were measured.
        signature: how, as ``sacrebleu`` writes it; scores of other signatures do not compare.
    """

    score: float
    n: int
    signature: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.score:.1f} (n={self.n})"


def can_measure() -> bool:
    """Whether ``sacrebleu`` is installed."""
    return importlib.util.find_spec("sacrebleu") is not None


def measure_bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Bleu:
    """The score of ``texts``, each against the references for it, of which there may be several.

    Raises:
        InputError: there are no texts, or not one or more references for each.
        ResourceError: ``sacrebleu`` is not installed.
    """
    if not texts or len(texts) != len(references) or not all(references):
        raise InputError(
            f"expected one or more references for each of some texts, got {len(texts)} texts and "
            f"references for {sum(map(bool, references))}"
        )
    if not can_measure():
        raise ResourceError(
            "expected the package sacrebleu to measure BLEU, got none; "
            "run: pip install 'robust-prefix[generation]'"
        )
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    # Streams of references: the first of each text, the second of each that has one, and so on.
    score = metric.corpus_score(list(texts), [list(each) for each in zip_longest(*references)])
    return Bleu(float(score.score), len(texts), str(metric.get_signature()))


def by_source(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """What may be said about each source."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        found.setdefault(pair.source, []).append(pair.target)
    return found
