"""Detection: what does not look like clean text gets no answer.

A detector that is not attacked itself proves nothing (Carlini & Wagner 2017, "Adversarial Examples
Are Not Easily Detected"): an evaluation shows attackers when a text is refused and how near it was,
and only an adversary that is answered counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.defenses.base import Defense, Fitted, NoDefense
from robust_prefix.defenses.differentiation import token_gradients
from robust_prefix.defenses.wrapping import WrappingDefense
from robust_prefix.detection import Calibrated, Decisions, Detectors, Seen, as_attacked, see
from robust_prefix.errors import ArtifactError
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.prefixes import Inputs, PrefixModel
from robust_prefix.tasks import Fields


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class DetectConfig:
    """Settings of the detector.

    Attributes:
        score: which of the fitted scores, see ``robust_prefix.detection.SCORES``.
        fpr: the share of clean texts that may be refused; decides ``threshold``.
        threshold: texts whose score is higher are refused; taken from the clean dev texts where
            not given.
    """

    score: str = "mahalanobis"
    fpr: float = Field(default=0.05, gt=0, lt=1)
    threshold: float | None = Field(default=None, allow_inf_nan=False)


class Detect(WrappingDefense[DetectConfig]):
    """Refuses what the plain classifier finds suspicious; what it wraps answers the rest.

    The detector reads the text as it came, so nothing stands before it. Where nothing is wrapped
    the answer and the states that are read come of one pass.

    Args:
        detectors: the run's.

    Raises:
        ArtifactError: there are none, or the score is not among them.
        ConfigError: the score is unknown, or dev is too small for the false-positive rate.
    """

    name = "detect"
    summary = "refuses texts that do not look like clean ones; may abstain"
    config_type = DetectConfig
    stage = -1
    needs_detectors = True

    def __init__(
        self,
        detectors: Detectors | None,
        inner: Defense[Any] | None = None,
        **settings: Any,
    ) -> None:
        if detectors is None:
            raise ArtifactError(
                f"expected fitted detectors for the defence {self.name!r}, got none; "
                "run robust-prefix fit-detectors on the run first"
            )
        super().__init__(inner, **settings)
        self.detectors = detectors
        self.built_from = Fitted(detectors=detectors)
        if self.config.threshold is None:
            # In the settings, and so in every record; rounded, so that they rebuild this detector,
            # and upwards, so that no more clean texts are refused.
            found = Decimal(self.calibrated.threshold(self.config.fpr))
            rounded = float(Context(prec=6, rounding=ROUND_CEILING).plus(found))
            self.config = dataclasses.replace(self.config, threshold=rounded)
        self._scale = self.calibrated.scale(self.threshold)

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(fitted.detectors, inner, **settings)

    @property
    def calibrated(self) -> Calibrated:
        """The score, with what it is on clean text."""
        return self.detectors.get(self.config.score)

    @property
    def threshold(self) -> float:
        """The score above which a text is refused."""
        if self.config.threshold is None:  # the constructor sets it; this is for the type checker
            raise RuntimeError("the detector was built without a threshold")
        return self.config.threshold

    def passed_on(self, fields: Fields) -> list[Fields]:
        """See ``WrappingDefense``; the text itself, refused or not."""
        return [fields]

    def excess(self, seen: Seen) -> Tensor:
        """See ``Decisions``, of each text ``(n,)``."""
        return (self.calibrated.score(seen).float() - self.threshold) / self._scale

    def _decisions(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Decisions:
        self.detectors.check(model.backbone.fingerprint, model.prefix.fingerprint)
        seen = see(model, texts, self.calibrated.score.layers, batch_size)
        if isinstance(self.inner, NoDefense):
            answers = Decisions(seen.logits)
        else:
            answers = self.inner.decide(model, texts, batch_size)
        return dataclasses.replace(answers, excess=self.excess(seen).cpu())

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        return self.inner.logits(model, texts, batch_size)

    def _slopes(
        self,
        model: PrefixModel,
        texts: Sequence[Fields],
        labels: Sequence[int],
        through: Through,
        batch_size: int,
    ) -> list[TokenGradients]:
        """Of the loss of ``as_attacked``: where the detector is what stands in the attacker's way,
        its gradient; of a score without one, what is wrapped alone."""
        found = self.inner.gradients(model, texts, labels, through, batch_size)
        if not self.calibrated.score.differentiable:
            return found
        # who reads gradients has the weights, and sees what a bound hides
        decisions = self._decisions(model, texts, batch_size).revealed
        shown = as_attacked(decisions, labels, "misclassify")
        alone = torch.tensor(labels)[:, None]
        raised = (shown != decisions.logits).gather(1, alone)[:, 0].nonzero()[:, 0].tolist()
        encoded = model.prompter.encode(texts)
        for start in range(0, len(raised), batch_size):
            places = raised[start : start + batch_size]
            own = [labels[place] for place in places]
            logits = decisions.logits[places]

            def run(inputs: Inputs, logits: Tensor = logits, own: list[int] = own) -> Tensor:
                excess = self.excess(self._seen(model, inputs))
                fixed = logits.to(excess.device)
                return as_attacked(Decisions(fixed, excess), own, "misclassify")

            slopes = token_gradients(self.name, run, model, encoded.select(places), own)
            for place, slope in zip(places, slopes, strict=True):
                found[place] = slope
        return found

    def _seen(self, model: PrefixModel, inputs: Inputs) -> Seen:
        """What the plain classifier shows of one batch, with gradients."""
        states, logits = model.states_of(inputs, self.calibrated.score.layers)
        return Seen(inputs.texts, logits, states, lambda texts: see(model, texts, ()).logits)
