"""A gate: what is costly is asked only where the plain answer is unsure.

Attacks that edit as little as they can stop right behind the decision boundary, so an adversary
has a small margin while most clean texts have a large one. An attacker who knows of the gate need
only go on until the margin is large: what a gate saves is time, and it is attacked together with
what it guards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.defenses.base import Defense, Fitted, NoDefense
from robust_prefix.defenses.wrapping import WrappingDefense
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.prefixes import PrefixModel, margins
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Fields


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class GateConfig:
    """Settings of the gate.

    Attributes:
        share: of the clean dev texts that are handed on; decides ``threshold``.
        threshold: texts whose margin is smaller are handed on, in logits; taken from the margins
            on dev that were stored with the subspaces where not given.
    """

    share: float = Field(default=0.05, ge=0, le=1)
    threshold: float | None = None


class Gate(WrappingDefense[GateConfig]):
    """Answers as the undefended classifier where its margin is large, else as what it wraps.

    Args:
        subspaces: have the margins that a threshold is taken from.

    Raises:
        ConfigError: nothing is wrapped.
        ArtifactError: there is neither a threshold nor what to take it from.
    """

    name = "gate"
    summary = "hands on only the texts whose plain answer is unsure; saves time"
    config_type = GateConfig
    stage = 3

    def __init__(
        self,
        subspaces: Subspaces | None = None,
        inner: Defense[Any] | None = None,
        **settings: Any,
    ) -> None:
        if inner is None or isinstance(inner, NoDefense):
            raise ConfigError(
                "expected a defence behind the gate, got none; say gate+robust-prefix"
            )
        super().__init__(inner, **settings)
        # the margins on dev, where the threshold comes from them
        measured = subspaces if self.config.threshold is None else None
        self.built_from = Fitted(subspaces=measured)
        if self.config.threshold is None:
            found = None if subspaces is None else subspaces.margin_at(self.config.share)
            if found is None:
                raise ArtifactError(
                    "expected the margins on dev for the defence 'gate', got none; run "
                    "robust-prefix fit-subspaces on the run again, or give the gate a threshold"
                )
            # In the settings, and so in every record; rounded, so that they rebuild this gate.
            self.config = dataclasses.replace(self.config, threshold=round(found, 4))

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(fitted.subspaces, inner, **settings)

    @property
    def threshold(self) -> float:
        """The margin from which on the plain answer stands, in logits."""
        if self.config.threshold is None:  # the constructor sets it; this is for the type checker
            raise RuntimeError("the gate was built without a threshold")
        return self.config.threshold

    def passed_on(self, fields: Fields) -> list[Fields]:
        """See ``WrappingDefense``; the text itself, wherever the gate is open."""
        return [fields]

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        scores, unsure = self._asked(model, texts, batch_size)
        if unsure:
            handed_on = [texts[index] for index in unsure]
            scores[unsure] = self.inner.logits(model, handed_on, batch_size)
        return scores

    def _slopes(
        self,
        model: PrefixModel,
        texts: Sequence[Fields],
        labels: Sequence[int],
        through: Through,
        batch_size: int,
    ) -> list[TokenGradients]:
        """Each text's by the branch that answers it."""
        unsure = self._asked(model, texts, batch_size)[1]
        sure = sorted(set(range(len(texts))) - set(unsure))
        found: dict[int, TokenGradients] = {}
        for branch, places in ((NoDefense(), sure), (self.inner, unsure)):
            if places:
                given = [texts[place] for place in places], [labels[place] for place in places]
                slopes = branch.gradients(model, *given, through, batch_size)
                found |= zip(places, slopes, strict=True)
        return [found[place] for place in range(len(texts))]

    def _asked(
        self, model: PrefixModel, texts: Sequence[Fields], batch_size: int
    ) -> tuple[Tensor, list[int]]:
        """Plain scores, and the places of those that are handed on."""
        if self.built_from.subspaces is not None:  # another prefix has other margins
            self.built_from.subspaces.check(model.backbone.fingerprint, model.prefix.fingerprint)
        scores = NoDefense().logits(model, texts, batch_size)
        return scores, (margins(scores) < self.threshold).nonzero()[:, 0].tolist()
