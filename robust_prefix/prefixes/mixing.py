"""Class scores of several classifiers on one backbone, their prompts mixed in one batch.

Each row of a batch has its own prefix, so that one loaded model answers for many tasks at once
(Lester et al., EMNLP 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", figure 2:
mixed-task batches).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from robust_prefix.data import token_batches
from robust_prefix.prefixes.model import PrefixModel
from robust_prefix.prefixes.scoring import TOKENS_A_TEXT

Prompt = tuple[PrefixModel, tuple[int, ...]]
"""Who is asked, and the tokens of what is asked."""


@torch.no_grad()
def mixed_scores(prompts: Sequence[Prompt], batch_size: int = 32) -> list[Tensor]:
    """Scores of undefended classifiers, those on one backbone in common batches.

    Args:
        batch_size: as in ``plain_scores``.

    Returns:
        Of each prompt, in order, float32 ``(classes,)`` on the CPU.
    """
    scores: dict[Prompt, Tensor] = {}
    for group in _groups(dict.fromkeys(prompts)):
        lengths = [len(tokens) for _, tokens in group]
        for batch in token_batches(lengths, batch_size * TOKENS_A_TEXT):
            with group[0][0].backbone.lock:
                scores |= _run([group[index] for index in batch])
    return [scores[prompt] for prompt in prompts]


def _groups(prompts: Iterable[Prompt]) -> list[list[Prompt]]:
    """What can go through the layers together.

    Rows of one batch run through the same model and have a prefix in the same layers; of several
    lengths only under causal attention, where each row may see as much of the padded prefix as is
    its own.
    """
    groups: dict[object, list[Prompt]] = {}
    for prompt in prompts:
        model = prompt[0]
        length = None if model.backbone.causal else model.prefix.length
        groups.setdefault((model.backbone, model.learned.layers, length), []).append(prompt)
    return list(groups.values())


def _run(prompts: Sequence[Prompt]) -> dict[Prompt, Tensor]:
    """Scores of one batch, by prompt."""
    rows: dict[PrefixModel, list[tuple[int, ...]]] = {}
    for model, tokens in prompts:
        rows.setdefault(model, []).append(tokens)
    backbone = prompts[0][0].backbone
    batch = backbone.pad([tokens for own in rows.values() for tokens in own])
    hidden = torch.cat([_embedded(*each, batch.ids.shape[1]) for each in rows.items()])
    counts = torch.tensor([len(own) for own in rows.values()], device=backbone.device)
    lengths = torch.tensor([model.prefix.length for model in rows], device=backbone.device)
    seen = lengths.repeat_interleave(counts) if len(set(lengths.tolist())) > 1 else None
    state = backbone.run_to_answer(hidden, 0, batch, _prefixes(rows, counts), seen)
    return {
        (model, tokens): scores
        for (model, own), states in zip(rows.items(), state.split(counts.tolist()), strict=True)
        for tokens, scores in zip(own, model.class_scores(states).cpu(), strict=True)
    }


def _embedded(model: PrefixModel, rows: Sequence[tuple[int, ...]], width: int) -> Tensor:
    """States before the first layer ``(rows, width, hidden)``.

    Only a classifier's own prompts count against the model's positions behind its own prefix, and
    not the padding to the longest of all, so they are padded to one width as states.
    """
    batch = model.backbone.pad(rows)
    states = model.learned.interact(model.embed(batch, model.prefix.length))
    return pad(states, (0, 0, 0, width - states.shape[1]))


def _prefixes(rows: Mapping[PrefixModel, Sequence[object]], counts: Tensor) -> list[Tensor]:
    """Keys and values of each layer ``(batch, 2, kv_heads, longest, head_dim)``."""
    longest = max(model.prefix.length for model in rows)
    layers = next(iter(rows)).learned.layers
    found = []
    for layer in range(next(iter(rows)).backbone.prefix_rows):
        length = longest if layers is None or layer in layers else 0
        own = [model.prefix_tensor[layer] for model in rows]
        padded = [pad(tensor, (0, 0, 0, length - tensor.shape[-2])) for tensor in own]
        found.append(torch.stack(padded).repeat_interleave(counts, 0))
    return found
