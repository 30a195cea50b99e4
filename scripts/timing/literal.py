"""The published setting of robust prefix-tuning, run as it was published.

Written from the formulas of Yang & Liu (ICLR 2022), section 3.3, and from what is known of their
program. ``Literal`` pays for each of these, and every one is there for a reason that a first
implementation has:

* every step is a forward pass of the whole language model (``model(...)``), since that is how a
  library's model is called, though the loss reads its first layers alone;
* that pass ends in the head over the whole vocabulary, at every position, since that is what a
  causal language model returns;
* ``P'`` is one parameter with a part in every layer, since the prefix has one, though only the
  first layers' part ever receives a gradient;
* the projections are dense matrices ``Q_j``, ``(hidden, hidden)``, applied as the formula has them;
* the cache of keys and values is built anew at each step, as the cache that the library offers is
  written to by the pass;
* ``torch.optim.Adam`` steps, and one more pass that classifies.

It is no straw man: the weights are frozen and need no gradients, texts are padded to the longest of
their batch, attention is the library's fastest, ``P`` is on the device already, and no number is
copied to the CPU inside the loop. ``Sensible`` is what one would write at the second attempt: the
head leaves the loop, and the classification scores the label words at the answer position alone.
It still runs all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robust_prefix.backbones import TokenBatch
from robust_prefix.defenses.robust_prefix import RobustPrefixConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes import PrefixModel
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Fields

PUBLISHED = RobustPrefixConfig(mode="batch")


class Literal:
    """One additional prefix a batch, centred on the batch's own mean, whole passes all the way.

    Args:
        subspaces: those of the first layers, as :func:`robust_prefix.fit_subspaces` makes them.

    Raises:
        ConfigError: the last layer's states are among them, which the library gives normed only.
    """

    name = "literal"

    def __init__(
        self,
        model: PrefixModel,
        subspaces: Subspaces,
        steps: int = PUBLISHED.steps,
        learning_rate: float = PUBLISHED.learning_rate,
    ) -> None:
        if max(subspaces.layers) >= model.backbone.num_layers:
            raise ConfigError(
                f"expected subspaces of layers below {model.backbone.num_layers}, got one of "
                f"{max(subspaces.layers)}; fit fewer layers"
            )
        self.model = model
        self.steps = steps
        self.learning_rate = learning_rate
        backbone = model.backbone
        self._language_model = backbone.model
        self._trained = model.prefix.tensor.to(backbone.device)
        self._projections = {}
        for layer, fitted in subspaces.layers.items():
            subspace = fitted.to(backbone.device)
            inside = subspace.basis @ subspace.basis.T
            identity = torch.eye(len(inside), device=backbone.device)
            self._projections[layer] = identity - inside if subspace.is_complement else inside

    def logits(self, texts: Sequence[Fields]) -> Tensor:
        """Class scores of one batch: float32 ``(batch, classes)`` on the CPU."""
        batch = self.model.backbone.pad(self.model.prompter.encode(texts).rows)
        additional = torch.zeros_like(self._trained).requires_grad_()
        optimizer = torch.optim.Adam([additional], lr=self.learning_rate)
        for _ in range(self.steps):
            optimizer.zero_grad()
            self._loss(batch, additional).backward()
            optimizer.step()
        with torch.no_grad():
            return self._classify(batch, additional).float().cpu()

    def _loss(self, batch: TokenBatch, additional: Tensor) -> Tensor:
        """``sum_j ||(I - Q_j)(h_j - m_j)||^2`` at the answer; ``m_j`` is 0 for one text."""
        output = self._pass(batch, additional, output_hidden_states=True)
        loss = torch.zeros((), device=additional.device)
        for layer, projection in self._projections.items():
            states = batch.at_answer(output.hidden_states[layer]).float()
            centered = states - states.mean(0) if len(states) > 1 else states
            loss = loss + (centered - centered @ projection).square().sum()
        return loss

    def _classify(self, batch: TokenBatch, additional: Tensor) -> Tensor:
        scores = batch.at_answer(self._pass(batch, additional).logits)  # (batch, vocabulary)
        return scores[:, self.model.prompter.label_tokens]

    def _pass(self, batch: TokenBatch, additional: Tensor, **options: Any) -> Any:
        """The library's forward pass with ``P + P'`` as keys and values of the past."""
        from transformers import DynamicCache

        prefix = (self._trained + additional).to(self.model.backbone.dtype)
        rows, tokens = batch.ids.shape
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(prefix):
            shape = (rows, *keys.shape)
            cache.update(keys.expand(shape), values.expand(shape), layer)
        places = torch.arange(tokens, device=batch.ids.device)
        text = places <= batch.answer[:, None]
        mask = torch.cat([text.new_ones(rows, prefix.shape[3]), text], dim=1).long()
        return self._module()(
            input_ids=batch.ids, attention_mask=mask, past_key_values=cache, **options
        )

    def _module(self) -> Any:
        return self._language_model


class Sensible(Literal):
    """The same without the head in the loop, and with label words alone at the answer."""

    name = "literal, no vocabulary"

    def _classify(self, batch: TokenBatch, additional: Tensor) -> Tensor:
        states = batch.at_answer(self._pass(batch, additional).last_hidden_state)
        head = self._language_model.get_output_embeddings()
        return states @ head.weight[self.model.prompter.label_tokens].T

    def _module(self) -> Any:
        return self._language_model.get_decoder()
