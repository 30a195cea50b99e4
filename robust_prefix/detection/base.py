"""What every score is: what the plain classifier shows of a text in, one number a text out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from robust_prefix.activations import answers
from robust_prefix.prefixes import PrefixModel, plain_scores
from robust_prefix.tasks import Fields


@dataclass(frozen=True)
class Seen:
    """What the plain classifier shows of some texts.

    Attributes:
        texts: as ``task.fields`` gives them.
        logits: class scores, float32 ``(n, classes)``.
        states: at the answer position, by layer number: float32 ``(n, hidden)``.
        ask: the plain class scores of other texts, float32 ``(m, classes)``.
    """

    texts: Sequence[Fields]
    logits: Tensor
    states: Mapping[int, Tensor]
    ask: Callable[[Sequence[Fields]], Tensor]


class Score(ABC):
    """One way to tell altered text from clean text; the higher, the more suspicious.

    Attributes:
        name: what users type.
        summary: what it reads, in a few words.
        paper: authors, year and title; empty where there is none.
        differentiable: whether gradients lead from it to ``Seen.states`` and ``Seen.logits``.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    differentiable: ClassVar[bool] = True

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers whose states it reads."""
        return ()

    @abstractmethod
    def __call__(self, seen: Seen) -> Tensor:
        """The score of each text ``(n,)``."""

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What was fitted, as tensors and as JSON values."""
        return {}, {}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`pack`."""
        return cls()


def see(
    model: PrefixModel, texts: Sequence[Fields], layers: Sequence[int], batch_size: int = 32
) -> Seen:
    """Ask the plain classifier; one pass a text, whatever is read of it.

    Args:
        layers: numbers of the layers whose states are kept, see ``PrefixModel.answer_states``.
    """

    def ask(others: Sequence[Fields]) -> Tensor:
        return plain_scores(model, model.prompter.encode(others), batch_size)

    if not layers:  # then texts that begin alike share the work on their beginning
        return Seen(texts, ask(texts), {}, ask)
    logits = torch.empty(len(texts), len(model.task.labels))
    hidden = model.backbone.hidden_size
    states = {layer: torch.empty(len(texts), hidden) for layer in layers}
    for indices, found, scores in answers(model, texts, layers, batch_size):
        logits[indices] = scores.float().cpu()
        for layer in layers:
            states[layer][indices] = found[layer].cpu()
    return Seen(texts, logits, states, ask)
