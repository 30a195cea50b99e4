"""Defences that hand other texts to the defence that they wrap, and answer with what it says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from torch import Tensor

from robust_prefix.defenses.base import Config, Defense, Fitted, NoDefense
from robust_prefix.prefixes import Inputs, PrefixModel
from robust_prefix.tasks import Fields


class WrappingDefense(Defense[Config]):
    """What stands before another defence. The costs are those of the wrapped one.

    Attributes:
        stage: what it works on, the text as it came (-1), characters (0), scores of its words (1),
            words (2) or copies of the text (3): the lower is the outer one.

    Args:
        inner: the defence that is wrapped; none where not given.
    """

    stage: ClassVar[int]

    def __init__(self, inner: Defense[Any] | None = None, **settings: Any) -> None:
        super().__init__(None, **settings)
        self.inner = inner if inner is not None else NoDefense()
        self.subspaces = self.inner.subspaces
        self.dynamic = self.inner.dynamic
        self.randomized = self.inner.randomized
        self.hides_scores = type(self).hides_scores or self.inner.hides_scores

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(inner, **settings)

    @property
    def batch_dependent(self) -> bool:
        return self.inner.batch_dependent

    @property
    def spec(self) -> str:
        own = super().spec
        return own if isinstance(self.inner, NoDefense) else f"{own}+{self.inner.spec}"

    @abstractmethod
    def passed_on(self, fields: Fields) -> list[Fields]:
        """The texts that the wrapped defence is asked about for one text."""

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        """Never: subclasses give ``_scores`` and ``_slopes``, which ask the wrapped defence about
        texts, not about embeddings."""
        raise NotImplementedError(f"{self.name} answers texts; ask logits or gradients")


def layers(defense: Defense[Any]) -> Iterator[Defense[Any]]:
    """A defence and, from the outside in, what it wraps."""
    yield defense
    while isinstance(defense, WrappingDefense):
        defense = defense.inner
        yield defense
