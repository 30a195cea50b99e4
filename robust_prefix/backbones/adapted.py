"""What changes the frozen model itself: adapters put in, weights put in place of its own.

A model's modules are copied without their tensors, which both share; the copy gets what is learned.
So the frozen model stays as it is, and any number of copies stand beside it at once.

The library AdapterHub ``adapters`` puts adapters into ``transformers`` models, too, but it binds
one release of ``transformers``, rewrites the classes of the very model it is given and hands the
names of the active adapters from the model's own forward to its layers. Here layers are run without
that forward, several sets stand on one model at once, and their tensors change with every training
step.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu

from robust_prefix.errors import ArtifactError

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "relu": relu,
    "silu": silu,
    "tanh": torch.tanh,
}
"""By the name users type."""


@dataclass(frozen=True)
class Adapters:
    """Bottlenecks ``x + up(activation(down(x)))`` (Houlsby et al., ICML 2019, section 2.1).

    Attributes:
        down: weights and, in the last column, biases ``(adapters, width, hidden + 1)``.
        up: the same ``(adapters, hidden, width + 1)``.
        places: of each, the layer's number and a name of ``Backbone.sublayers``: what that
            sublayer gives goes through the adapter before it is added to what it was given.
        activation: a name of :data:`ACTIVATIONS`.

    Raises:
        ArtifactError: they do not fit each other.
    """

    down: Tensor
    up: Tensor
    places: tuple[tuple[int, str], ...]
    activation: str = "gelu"

    def __post_init__(self) -> None:
        places, width, hidden = len(self.places), self.width, self.hidden_size
        shapes = (tuple(self.down.shape), tuple(self.up.shape))
        expected = ((places, width, hidden + 1), (places, hidden, width + 1))
        if shapes != expected or self.activation not in ACTIVATIONS:
            raise ArtifactError(
                f"expected adapters at {places} places of the shapes {expected} with one of "
                f"{', '.join(ACTIVATIONS)}, got {shapes} with {self.activation!r}"
            )

    @property
    def width(self) -> int:
        """Of the bottleneck."""
        return self.down.shape[-2]

    @property
    def hidden_size(self) -> int:
        """Of the states that go through it."""
        return self.up.shape[-2]

    def function(self, number: int) -> Activation:
        """The adapter of that number, of ``(..., hidden)``; it computes in its input's type."""
        down, up = self.down[number], self.up[number]
        # contiguous, once: the columns beside the biases are not
        first, second = down[:, :-1].contiguous(), up[:, :-1].contiguous()
        activation = ACTIVATIONS[self.activation]

        def adapt(hidden: Tensor) -> Tensor:
            kind = hidden.dtype
            narrow = activation(linear(hidden, first.to(kind), down[:, -1].to(kind)))
            return hidden + linear(narrow, second.to(kind), up[:, -1].to(kind))

        return adapt


def sharing_copy(model: nn.Module) -> nn.Module:
    """The same modules with the same tensors: parts of the copy can be exchanged, and hooks
    registered on it, without a change to ``model``."""
    return _copied(model, {})


def _copied(module: nn.Module, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    """A copy of ``module``, made once; see :func:`sharing_copy`."""
    if module not in copies:
        found = copies[module] = copy.copy(module)
        found._parameters = dict(module._parameters)
        found._buffers = dict(module._buffers)
        found._forward_hooks = OrderedDict(module._forward_hooks)
        found._modules = {
            name: None if child is None else _copied(child, copies)
            for name, child in module._modules.items()
        }
        own: Any = vars(found).get("forward")
        if getattr(own, "__self__", None) is module:
            # Put on the object itself, by whatever wrapped it for a while: it would run the
            # original with what that one holds.
            found.forward = MethodType(own.__func__, found)
    return copies[module]


def put_weights(model: nn.Module, frozen: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put tensors in place of those of the same name in ``frozen``, wherever ``model`` has them.

    A weight that is tied to another, which ``named_parameters`` names once, is replaced in both.
    """
    names = dict(frozen.named_parameters())
    chosen = {id(names[name]): tensor for name, tensor in weights.items()}
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if id(tensor) in chosen:
                # Not a Parameter: gradients lead on to what the tensor was made of.
                module._parameters[name] = chosen[id(tensor)]  # type: ignore[assignment]


def put_behind(sublayer: nn.Module, adapt: Activation) -> None:
    """Let what ``sublayer`` gives, or the first of what it gives, go through ``adapt``."""

    def behind(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (adapt(output[0]), *output[1:])
        return adapt(output)

    sublayer.register_forward_hook(behind)
