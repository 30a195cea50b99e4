"""A victim as TextAttack calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import softmax

from robust_prefix.errors import InputError

if TYPE_CHECKING:
    from robust_prefix.evaluation.protocols import Victim
    from robust_prefix.tasks import Fields


class VictimWrapper:
    """Stands where TextAttack expects a ``ModelWrapper``; ``victim`` may be exchanged.

    It answers with float64 probabilities. TextAttack applies softmax, to a whole batch at once,
    whenever some row's sum is 1e-6 or more away from 1. Logits would get it in one batch and, by
    coincidence, not in another; float32 probabilities of many classes could get it a second time.
    The sums here are off by 1e-15 at most, so the answers are taken as they are. float64 also
    keeps apart the scores of a victim that is sure, where ``1 - p`` in float32 is 0 or 6e-8.
    """

    def __init__(self) -> None:
        self.victim: Victim | None = None

    @property
    def model(self) -> VictimWrapper:
        """What TextAttack reads to judge whether a goal fits a model; anything unknown will do."""
        return self

    def __call__(self, texts: Sequence[str | tuple[str, ...]]) -> torch.Tensor:
        """Class probabilities of ``texts``: float64 ``(len(texts), classes)``, on the CPU.

        Args:
            texts: strings where the task has one column, tuples where it has more.

        Raises:
            InputError: the victim's answer has the wrong shape or is not finite.
        """
        if self.victim is None:
            raise RuntimeError("expected a victim, got none; set one before the attack runs")
        fields: list[Fields] = [(text,) if isinstance(text, str) else text for text in texts]
        return torch.from_numpy(softmax(checked_logits(self.victim, fields), axis=1))


def checked_logits(victim: Victim, fields: Sequence[Fields]) -> np.ndarray:
    """The victim's answer: float64 ``(len(fields), classes)``.

    Raises:
        InputError: it has the wrong shape or is not finite.
    """
    logits = np.asarray(victim.logits(fields), dtype=np.float64)
    expected = (len(fields), len(victim.labels))
    if logits.shape != expected:
        raise InputError(
            f"expected logits of shape {expected} from the victim, got {logits.shape}; "
            "return one row a text and one column a label"
        )
    if not np.isfinite(logits).all():
        raise InputError(
            "expected finite logits from the victim, got NaN or infinity; "
            f"the first such text is {fields[int(np.argmin(np.isfinite(logits).all(axis=1)))]}"
        )
    return logits
