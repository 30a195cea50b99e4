"""A victim as TextAttack calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from scipy.special import softmax

from attacks.words import places_in_columns
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.masks import STAND_IN

if TYPE_CHECKING:
    from robust_prefix.evaluation.protocols import GradientVictim, Victim
    from robust_prefix.gradients import TokenGradients
    from robust_prefix.tasks import Fields

Place = tuple[int, int, int]
"""Column, start and end in the column's text."""


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
        fields = [without_blanks(_as_fields(text)) for text in texts]
        return torch.from_numpy(softmax(checked_logits(self._asked, fields), axis=1))

    def get_grad(self, text: str | tuple[str, ...]) -> dict[str, np.ndarray]:
        """The gradient of the predicted class's loss, word by word.

        TextAttack reads the rows as tokens (``GreedyWordSwapWIR``, by way of ``tokenize``) or as
        words (``WordSwapGradientBased``); what this calls a token is a word of TextAttack's.

        Returns:
            ``gradient``: float32 ``(words, hidden)``, the mean over a word's tokens, 0 where the
            victim does not see the word. ``ids``: each word's first token ``(words,)``.

        Raises:
            ConfigError: the victim gives no gradients.
            InputError: the victim's answer has the wrong shape or is not finite.
        """
        fields = _as_fields(text)
        victim = gradient_victim(self._asked)
        label = int(checked_logits(victim, [fields])[0].argmax())
        [found] = victim.gradients([fields], [label])
        places = places_in_columns(fields, _words(fields))
        gradient = np.zeros((len(places), found.gradient.shape[1]), dtype=np.float32)
        ids = np.zeros(len(places), dtype=np.int64)
        for number, place in enumerate(places):
            rows = tokens_at(found, place)
            if rows:
                gradient[number] = found.gradient[rows].mean(axis=0)
                ids[number] = found.tokens[rows[0]]
        return {"ids": ids, "gradient": gradient}

    def tokenize(
        self, texts: Sequence[str | tuple[str, ...]], strip_prefix: bool = False
    ) -> list[list[str]]:
        """What the rows of ``get_grad`` stand for; there are no prefixes to strip."""
        return [_words(_as_fields(text)) for text in texts]

    @property
    def _asked(self) -> Victim:
        if self.victim is None:
            raise RuntimeError("expected a victim, got none; set one before the attack runs")
        return self.victim


def _as_fields(text: str | tuple[str, ...]) -> Fields:
    return (text,) if isinstance(text, str) else text


def _words(fields: Fields) -> list[str]:
    from textattack.shared.utils import words_from_text

    words: list[str] = words_from_text("\n".join(fields))  # as AttackedText has them
    return words


def gradient_victim(victim: Victim) -> GradientVictim:
    """``victim``, where it shows its gradients.

    Raises:
        ConfigError: it does not.
    """
    if not hasattr(victim, "gradients"):
        raise ConfigError(
            f"expected a victim that gives gradients, got {type(victim).__name__}; "
            "use an attack that reads scores alone"
        )
    return cast("GradientVictim", victim)


def facing(victim: Victim, label: int) -> Victim:
    """``victim`` as it is seen from texts of a class: what is refused fools nobody."""
    from robust_prefix.evaluation.protocols import Facing

    return victim.facing(label) if isinstance(victim, Facing) else victim


def without_blanks(fields: Fields) -> Fields:
    """``fields`` with a sign in place of each column of spaces, which no classifier takes.

    Deletion leaves nothing of a text of one word; what is asked then is what the text is without
    it.
    """
    return tuple(text if text.strip() else STAND_IN for text in fields)


def tokens_at(found: TokenGradients, place: Place) -> list[int]:
    """Which tokens cover a part of ``place``; none where the text was cut before it."""
    column, start, end = place
    return [
        number
        for number, span in enumerate(found.spans)
        if span is not None and span[0] == column and span[1] < end and span[2] > start
    ]


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
