"""The control: random noise where a dynamic defence puts its tuned prefix.

Attacks that edit as little as they can stop right behind the decision boundary, so any change of
the model brings part of their adversaries back. What a defence gains counts only beyond this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.defenses.base import Defense
from robust_prefix.defenses.robust_prefix import (
    RobustPrefix,
    add_to_first_layers,
    additional_shape,
)
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes import Inputs, PrefixModel
from robust_prefix.tasks import Fields


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class RandomPrefixConfig:
    """Settings of the noise.

    Attributes:
        rms: root mean square of the noise; :meth:`RandomPrefix.matching` measures it.
        layers: how many layers from the first receive noise.
        seed: together with a text it decides that text's noise.
    """

    rms: float = Field(ge=0)
    layers: int = Field(default=2, ge=1)
    seed: int = 0


class RandomPrefix(Defense[RandomPrefixConfig]):
    """Gaussian noise added to the trained prefix in the first layers.

    The noise of a text is drawn from a seed that is a hash of the text: the same text gets the
    same answer in any company, and an attacker cannot average it away by asking again.
    """

    name = "random-prefix"
    summary = "the control: noise of the same norm in the same layers"
    config_type = RandomPrefixConfig

    @classmethod
    def matching(
        cls, defense: RobustPrefix, model: PrefixModel, texts: Sequence[Fields], seed: int = 0
    ) -> RandomPrefix:
        """A control with the norm, in the layers, of what ``defense`` adds on ``texts``."""
        encoded = model.prompter.encode(texts)
        squares = [
            defense.additional_prefix(model, encoded.select(batch)).square().mean((0, 2, 3, 4, 5))
            * len(batch)
            for batch in defense.batches(encoded, 32)
        ]
        mean_square = torch.stack(squares).sum(0) / len(encoded)
        # Rounded, so that the number in a report rebuilds the very same control.
        rms = round(float(mean_square.mean().sqrt()), 4)
        return cls(rms=rms, layers=len(mean_square), seed=seed)

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        if self.config.layers > model.backbone.num_layers:
            raise ConfigError(
                f"expected at most {model.backbone.num_layers} layers for {self.name}, "
                f"got {self.config.layers}"
            )
        shape = additional_shape(model, self.config.layers)
        noise = torch.stack([self._noise(text, shape) for text in inputs.texts])
        noise = noise.to(model.backbone.device)
        return model.logits(inputs, add_to_first_layers(model.prefix_tensor, noise))

    def _noise(self, text: Fields, shape: tuple[int, ...]) -> Tensor:
        key = "\0".join((str(self.config.seed), *text)).encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator) * self.config.rms
