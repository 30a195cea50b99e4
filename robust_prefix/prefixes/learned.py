"""What a method gives the frozen model: tensors that gradients lead from to its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from robust_prefix.backbones import Adapters, Backbone
from robust_prefix.backbones.base import LayerPrefixes

_WEIGHT = "weight:"
"""What the names of the model's own weights begin with in a file."""


@dataclass(frozen=True)
class Learned:
    """What a method gives the frozen model; gradients lead from here to its parameters.

    Attributes:
        tensor: keys and values ``(layers, 2, kv_heads, length, head_dim)``; keys first.
        soft_tokens: embeddings ``(tokens, hidden)``: of the virtual tokens that ``tensor`` was
            compiled from, then of those inside the template. None where keys and values are learned
            themselves.
        layers: the numbers of the layers that have a prefix; of the others ``tensor`` counts for
            nothing. All where None.
        kernel: ``(width, hidden)`` that the prompt's embeddings are convolved with. None where they
            are taken as they are.
        head: weights and, in the last column, biases of a linear classification head ``(classes,
            hidden + 1)`` over the state at the answer position; None where label words answer.
        adapters: what goes behind sublayers of the model; None where nothing does.
        weights: what stands in the place of the model's weights, by their names in it.
    """

    tensor: Tensor
    soft_tokens: Tensor | None = None
    layers: tuple[int, ...] | None = None
    kernel: Tensor | None = None
    head: Tensor | None = None
    adapters: Adapters | None = None
    weights: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def compiled(cls, backbone: Backbone, soft_tokens: Tensor, length: int) -> Learned:
        """Soft tokens of which the first ``length`` stand before the prompt."""
        if not length:
            return cls(soft_tokens.new_zeros(backbone.prefix_shape(0)), soft_tokens)
        return cls(backbone.compile(soft_tokens[:length]), soft_tokens)

    @property
    def inner_tokens(self) -> Tensor | None:
        """Embeddings of the virtual tokens inside the template, ``(tokens, hidden)``."""
        if self.soft_tokens is None or len(self.soft_tokens) == self.length:
            return None
        return self.soft_tokens[self.length :]

    @property
    def length(self) -> int:
        """Number of virtual tokens before the text."""
        return self.tensor.shape[3]

    @property
    def changes_model(self) -> bool:
        """Whether texts run through another model than the frozen one."""
        return self.adapters is not None or bool(self.weights)

    def model(self, backbone: Backbone) -> Backbone:
        """The model that texts run through: a view of ``backbone``, or the frozen model itself."""
        return backbone.adapted(self.weights, self.adapters)

    def by_layer(self) -> LayerPrefixes:
        """What the backbone takes: a layer without a prefix has one of length 0."""
        if self.layers is None:
            return self.tensor
        return [
            tensor if layer in self.layers else tensor[:, :, :0]
            for layer, tensor in enumerate(self.tensor)
        ]

    def interact(self, embedded: Tensor) -> Tensor:
        """What the first layer gets for a prompt's embeddings ``(batch, tokens, hidden)``."""
        if self.kernel is None:
            return embedded
        width, tokens = len(self.kernel), embedded.shape[1]
        padded = pad(embedded, (0, 0, width - 1, 0))
        for back, weights in enumerate(self.kernel):
            first = width - 1 - back
            embedded = embedded + weights * padded[:, first : first + tokens]
        return embedded

    def scores(self, backbone: Backbone, state: Tensor, words: Tensor | None = None) -> Tensor:
        """Scores from states at the answer position after the last layer ``(batch, hidden)``.

        Args:
            words: tokens or, where there is a head, classes to score; all where not given.

        Returns:
            float32 ``(batch, words)``.
        """
        if self.head is None:
            return backbone.next_token_logits(state, words)
        head = self.head.float()
        scores = linear(backbone.normed(state).float(), head[:, :-1], head[:, -1])
        return scores if words is None else scores[:, words]

    def tensors(self) -> dict[str, Tensor]:
        """Those that are there, by the name they are stored under."""
        named = {
            "prefix": self.tensor,
            "soft_tokens": self.soft_tokens,
            "kernel": self.kernel,
            "head": self.head,
            "adapters_down": None if self.adapters is None else self.adapters.down,
            "adapters_up": None if self.adapters is None else self.adapters.up,
            **{_WEIGHT + name: tensor for name, tensor in sorted(self.weights.items())},
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, device: torch.device, dtype: torch.dtype) -> Learned:
        """On another device, in another type."""
        return self._changed(lambda tensor: tensor.to(device, dtype))

    def detach(self) -> Learned:
        """Without the way back to the parameters."""
        return self._changed(Tensor.detach)

    def averaged(self, others: Sequence[Learned], shares: Sequence[float]) -> Learned:
        """The weighted mean with others, whose tensors have the same names and shapes.

        Args:
            shares: of this one first; they add up to 1.
        """
        sources = [each.tensors() for each in (self, *others)]
        return self._with(
            {
                name: torch.stack(
                    [share * source[name] for share, source in zip(shares, sources, strict=True)]
                ).sum(0)
                for name in sources[0]
            }
        )

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Learned:
        return self._with({name: change(tensor) for name, tensor in self.tensors().items()})

    def _with(self, tensors: Mapping[str, Tensor]) -> Learned:
        """With other tensors under the names of ``tensors``."""
        adapters = self.adapters and replace(
            self.adapters, down=tensors["adapters_down"], up=tensors["adapters_up"]
        )
        return replace(
            self,
            tensor=tensors["prefix"],
            soft_tokens=tensors.get("soft_tokens"),
            kernel=tensors.get("kernel"),
            head=tensors.get("head"),
            adapters=adapters,
            weights=own_weights(tensors),
        )


def own_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``Learned.tensors`` that are the model's own weights, by their names in it."""
    return {
        name.removeprefix(_WEIGHT): tensor
        for name, tensor in tensors.items()
        if name.startswith(_WEIGHT)
    }
