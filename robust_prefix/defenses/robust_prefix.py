"""Robust prefix-tuning (Yang & Liu, ICLR 2022, "On Robust Prefix-Tuning for Text Classification").

At inference an additional prefix, zero at the start, is added to the trained one and tuned so that
the states at the answer position move into the subspaces of correctly classified training texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from robust_prefix.backbones.base import LayerPrefixes
from robust_prefix.defenses.base import Defense
from robust_prefix.defenses.tuner import Adam, Polyak, Rule, descend
from robust_prefix.prefixes import Encoded, Inputs, PrefixModel
from robust_prefix.subspaces import Subspace, residual_norm_squared

LENGTH_ALONE = 10
"""Virtual tokens of an additional prefix where none was trained before the text."""


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class RobustPrefixConfig:
    """Settings of the tuning.

    Attributes:
        mode: ``example`` tunes one additional prefix an example against the stored training mean;
            ``batch`` is the paper's setting: one for the whole batch, centred on the batch's own
            mean, and not centred for a single text.
        optimizer: ``adam`` is the paper's; ``polyak`` takes steps whose length follows from the
            loss, and gets farther down in three of them than Adam in ten.
        learning_rate: of Adam; one setting for clean text and every attack.
        steps: of the optimizer.
        tolerance: an example whose loss fell to so large a part of what it was is left alone.
    """

    mode: Literal["example", "batch"] = "example"
    optimizer: Literal["adam", "polyak"] = "adam"
    learning_rate: float = Field(default=0.15, gt=0)
    steps: int = Field(default=10, ge=0, le=1000)
    tolerance: float = Field(default=0.0, ge=0, lt=1)


class RobustPrefix(Defense[RobustPrefixConfig]):
    """Additional prefix tuned at inference, ``min sum_j ||(I - Q_j)(h_j - m_j)||^2``.

    Only the layers below the deepest fitted state are run while tuning: no other prefix receives
    gradient from this loss.
    """

    name = "robust-prefix"
    summary = "tunes an additional prefix for each text until its states look normal"
    config_type = RobustPrefixConfig
    dynamic = True
    needs_subspaces = True

    @property
    def batch_dependent(self) -> bool:
        return self.config.mode == "batch"

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        additional = self._tune(model, inputs)
        return model.logits(inputs, add_to_first_layers(model.prefix_tensor, additional))

    def run_unrolled(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            additional = self._tune(model, inputs, unrolled=True)
        return model.logits(inputs, add_to_first_layers(model.prefix_tensor, additional))

    def additional_prefix(self, model: PrefixModel, encoded: Encoded) -> Tensor:
        """The tuned additional prefix of one batch.

        Returns:
            float32 ``(n, layers, 2, kv_heads, length, head_dim)`` for the first layers, with one
            row an example in mode ``example`` and one row in all in mode ``batch``.
        """
        with torch.no_grad():
            return self._tune(model, model.pad(encoded))

    def _tune(self, model: PrefixModel, inputs: Inputs, unrolled: bool = False) -> Tensor:
        # Adam's first step is the gradient's sign. In bfloat16 the sign of a small gradient hangs
        # on rounding, and that on the batch: margins moved by 2 with the company a text was in,
        # and attacks reported adversaries that a second query did not confirm. In float32 they
        # move as little as those of the plain model.
        embedded = inputs.embedded.float()
        if not unrolled:
            embedded = embedded.detach()
        subspaces = self._subspaces_on(model)
        deepest = max(subspaces)
        share = deepest / model.backbone.num_layers
        per_example = self.config.mode == "example"
        trained = model.prefix.learned.to(embedded.device, embedded.dtype).by_layer()
        rows = embedded.shape[0] if per_example else 1
        start = torch.zeros(rows, *additional_shape(model, deepest), device=embedded.device)
        everyone = inputs, embedded, model.backbone.layer_behind(embedded, 0, inputs.batch)

        def losses(additional: Tensor, of: Tensor) -> Tensor:
            chosen, hidden, first = everyone
            if len(of) < rows:  # some are left alone by now
                chosen, hidden = inputs.select(of), embedded[of]
                first = model.backbone.layer_behind(hidden, 0, chosen.batch)
            prefixes = add_to_first_layers(trained, additional[of])
            # The states before the first layer no prefix can change: they have no gradient.
            states = [chosen.batch.at_answer(hidden)]
            for layer in range(deepest - 1):
                hidden = (
                    model.backbone.run_layers(hidden, layer, layer + 1, chosen.batch, prefixes)
                    if layer
                    else first(prefixes)
                )
                states.append(chosen.batch.at_answer(hidden))
            states.append(
                model.backbone.run_layer_at_answer(hidden, deepest - 1, chosen.batch, prefixes)
            )
            # The way back through a step passes what it ran forward and what it ran backward.
            backward = 3 if unrolled else 1
            model.backbone.passes.backward += backward * len(chosen) * share
            terms = [
                residual_norm_squared(subspace, states[layer].float(), self._center(states[layer]))
                for layer, subspace in subspaces.items()
            ]
            each = torch.stack(terms).sum(0)
            return each if per_example else each.sum()[None]

        rule: Rule = Polyak()
        if self.config.optimizer == "adam":
            rule = Adam(self.config.learning_rate)
        return descend(
            rule, start, losses, self.config.steps, self.config.tolerance, unrolled=unrolled
        )

    def _center(self, states: Tensor) -> Tensor | None:
        """``m_j``: the stored mean, or in the paper's setting the batch's own, 0 for one text."""
        if self.config.mode == "example":
            return None
        states = states.float()
        return states.mean(0) if len(states) > 1 else torch.zeros_like(states[0])

    def _subspaces_on(self, model: PrefixModel) -> dict[int, Subspace]:
        if self.subspaces is None:  # the constructor refuses it; this is for the type checker
            raise RuntimeError("robust-prefix was built without subspaces")
        device = model.backbone.device
        return {layer: subspace.to(device) for layer, subspace in self.subspaces.layers.items()}


def additional_shape(model: PrefixModel, layers: int) -> tuple[int, int, int, int, int]:
    """``(layers, 2, kv_heads, length, head_dim)`` of a prefix added in the first ``layers``.

    Its length is the trained one's, or :data:`LENGTH_ALONE` where nothing stands before the text.
    """
    _, *shape = model.backbone.prefix_shape(model.prefix.length or LENGTH_ALONE)
    return (layers, *shape)  # type: ignore[return-value]


def add_to_first_layers(prefix: LayerPrefixes, additional: Tensor) -> Sequence[Tensor]:
    """The sum of both prefixes in the first layers, the trained one alone in the rest.

    A layer in which nothing was trained has the additional prefix alone; even where that is zero
    the text then attends to it, so that before the first step the answers are near those of the
    undefended model and not the same.

    Args:
        prefix: keys and values of each layer, shared by the batch.
        additional: ``(n, first, 2, kv_heads, length, head_dim)``; with one row it is shared.

    Returns:
        One tensor a layer, with a leading batch dimension where ``n > 1``.
    """
    first = additional.shape[1]
    shared = additional.shape[0] == 1
    summed = []
    for layer in range(first):
        added = additional[0, layer] if shared else additional[:, layer]
        summed.append(prefix[layer] + added if prefix[layer].shape[-2] else added)
    return [*summed, *prefix[first:]]
