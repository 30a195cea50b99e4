"""Gradients of a text's loss with respect to its input embeddings, through any defence."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_prefix.errors import ConfigError, RobustPrefixError
from robust_prefix.gradients import TokenGradients
from robust_prefix.prefixes import Encoded, Inputs, PrefixModel


def token_gradients(
    name: str,
    run: Callable[[Inputs], Tensor],
    model: PrefixModel,
    encoded: Encoded,
    labels: Sequence[int],
) -> list[TokenGradients]:
    """Gradients of one batch, of each text for itself where ``run`` scores each for itself.

    Args:
        name: of the defence, for messages.
        run: class scores ``(batch, classes)`` from the embeddings that it is given.
        labels: class numbers, one a text.

    Raises:
        ConfigError: the scores do not depend on the embeddings.
        RobustPrefixError: a gradient is not finite.
    """
    batch = model.backbone.pad(encoded.rows)
    with torch.enable_grad():
        embedded = model.embed(batch, model.prefix.length).detach().requires_grad_()
        scores = run(Inputs(encoded.texts, batch, model.learned.interact(embedded))).float()
        losses = cross_entropy(scores, torch.tensor(labels, device=scores.device), reduction="none")
        gradient = None
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), embedded, allow_unused=True)
    if gradient is None:
        raise ConfigError(
            f"expected a differentiable defence, got {name!r}, whose scores do not depend on the "
            "embeddings it is given; attack it with scores alone"
        )
    model.backbone.passes.backward += len(encoded)
    past, soft_tokens = model.prefix.length, model.learned.inner_tokens
    gradient = model.backbone.input_gradient(batch, past, gradient, soft_tokens)
    if not torch.isfinite(gradient).all():
        raise RobustPrefixError(
            f"expected finite gradients through the defence {name!r}, got NaN or infinity; "
            "hold what it tunes fixed, or lower its step size"
        )
    return [
        TokenGradients(
            tokens=row,
            spans=model.prompter.spans(text),
            gradient=slope[: len(row)].float().cpu().numpy().copy(),
            loss=loss.item(),
        )
        for row, text, slope, loss in zip(
            encoded.rows, encoded.texts, gradient, losses, strict=True
        )
    ]
