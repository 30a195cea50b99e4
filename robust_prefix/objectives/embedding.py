"""Adversaries in embedding space: projected gradient ascent and FreeLB."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.objectives.base import Adversary, Minibatch, Prompts


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class EmbeddingConfig:
    """Settings of the ascent.

    Attributes:
        radius: of the ball, as a share of the norm of what is perturbed, so that it means the
            same for every model.
        ball: ``word`` bounds each token's perturbation, ``sentence`` that of the whole prompt.
        steps: of ascent.
        step_size: length of a step, as a share of the radius.
    """

    radius: float = Field(default=0.3, gt=0)
    ball: Literal["word", "sentence"] = "word"
    steps: int = Field(default=3, ge=1)
    step_size: float = Field(default=0.5, gt=0)


class EmbeddingAdversary(Adversary[EmbeddingConfig]):
    """What both have in common: normalised ascent from a random start inside a ball."""

    config_type = EmbeddingConfig

    def ascend(self, minibatch: Minibatch, seed: int) -> list[Tensor]:
        """The perturbation after each step, ``(batch, tokens, hidden)`` each, inside the ball."""
        prompts = minibatch.prompts
        clean = prompts.embedded.detach().float()
        real = prompts.batch.real
        clean_norm = self._norm(clean * real[..., None])
        radius = self.config.radius * clean_norm
        generator = torch.Generator().manual_seed(seed * 1_000_003 + minibatch.step)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device) * real[..., None]
        delta = noise * (radius * 0.5 / self._norm(noise).clamp_min(1e-12))
        found = []
        for _ in range(self.config.steps):
            with torch.enable_grad():
                delta = delta.detach().requires_grad_()
                moved = replace(prompts, embedded=(clean + delta).to(prompts.embedded.dtype))
                (gradient,) = torch.autograd.grad(minibatch.losses(moved).sum(), delta)
            gradient = gradient * real[..., None]
            direction = gradient / self._norm(gradient).clamp_min(1e-12)
            delta = self._project(
                delta.detach() + self.config.step_size * radius * direction, radius
            )
            found.append(delta)
        return found

    def _norm(self, vectors: Tensor) -> Tensor:
        """Over a token's vector, or over all of a prompt; broadcasts against ``vectors``."""
        if self.config.ball == "word":
            return vectors.norm(dim=-1, keepdim=True)
        return vectors.flatten(1).norm(dim=1)[:, None, None]

    def _project(self, delta: Tensor, radius: Tensor) -> Tensor:
        return delta * (radius / self._norm(delta).clamp_min(1e-12)).clamp_max(1)


class PGD(EmbeddingAdversary):
    """The last perturbation of an ascent (Madry et al., ICLR 2018; on word embeddings, Miyato et
    al., ICLR 2017). The baseline of Yang & Liu (ICLR 2022), whose published code never adds it."""

    name = "pgd"
    summary = "projected gradient ascent on the input embeddings"

    def perturb(self, minibatch: Minibatch, seed: int) -> list[Prompts]:
        """The prompts under the last perturbation."""
        return [_perturbed(minibatch.prompts, self.ascend(minibatch, seed)[-1])]


class FreeLB(EmbeddingAdversary):
    """Every perturbation of an ascent (Zhu et al., ICLR 2020, "FreeLB").

    The gradients of all steps are averaged, as the paper does, though not for free: it reuses the
    backward pass of the ascent, which here stops at the embeddings.
    """

    name = "freelb"
    summary = "the mean over all steps of an ascent on the input embeddings"

    def perturb(self, minibatch: Minibatch, seed: int) -> list[Prompts]:
        """The prompts under each step's perturbation."""
        return [_perturbed(minibatch.prompts, delta) for delta in self.ascend(minibatch, seed)]


def _perturbed(prompts: Prompts, delta: Tensor) -> Prompts:
    return replace(prompts, embedded=prompts.embedded + delta.to(prompts.embedded.dtype))
