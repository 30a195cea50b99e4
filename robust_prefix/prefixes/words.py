"""What virtual tokens are near to."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from robust_prefix.backbones import Backbone
from robust_prefix.errors import ArtifactError
from robust_prefix.prefixes.base import Prefix


@torch.no_grad()
def nearest_words(
    prefix: Prefix, backbone: Backbone, count: int = 5
) -> list[list[tuple[str, float]]]:
    """The vocabulary entries nearest to each soft token, by cosine (Lester et al. 2021, section 7).

    Returns:
        For each soft token ``count`` pairs of text and cosine, the nearest first.

    Raises:
        ArtifactError: the prefix has keys and values alone, or belongs to another base model.
    """
    prefix.check_base(backbone)
    if prefix.soft_tokens is None:
        raise ArtifactError(
            "expected a prefix with soft tokens to name words near to them, got one of keys and "
            "values; train one with --method prompt-tuning or p-tuning"
        )
    words = normalize(backbone.embeddings.float(), dim=1)
    cosines = normalize(prefix.soft_tokens.to(words.device), dim=1) @ words.T
    found = cosines.topk(min(count, len(words)), dim=1)
    return [
        [(backbone.decode([token]), value) for token, value in zip(tokens, values, strict=True)]
        for tokens, values in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]
