"""Projection: set the state at the answer position to its nearest point in the subspace.

No optimisation: what the additional prefix has to beat to justify its optimiser.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robust_prefix.defenses.base import Defense, NoSettings
from robust_prefix.prefixes import Inputs, PrefixModel
from robust_prefix.subspaces import project


class Projection(Defense[NoSettings]):
    """Replace ``h_j`` by ``argmin_p ||p - h_j||`` over the subspace of each fitted layer ``j``."""

    name = "projection"
    summary = "sets each state to its nearest point in the subspace, no optimisation"
    needs_subspaces = True

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        if self.subspaces is None:  # the constructor refuses it; this is for the type checker
            raise RuntimeError("projection was built without subspaces")
        batch, hidden = inputs.batch, inputs.embedded
        rows = torch.arange(len(inputs), device=hidden.device)
        done = 0
        for layer in sorted(self.subspaces.layers):
            hidden = model.backbone.run_layers(hidden, done, layer, batch, model.prefix_tensor)
            done = layer
            subspace = self.subspaces.layers[layer].to(hidden.device)
            projected = project(subspace, batch.at_answer(hidden).float()).to(hidden.dtype)
            hidden = hidden.index_put((rows, batch.answer), projected)
        if done < model.backbone.num_layers:
            return model.run_to_logits(batch, hidden, done, model.prefix_tensor)
        return model.label_logits(batch, hidden)
