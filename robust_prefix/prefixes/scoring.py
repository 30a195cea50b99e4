"""Class scores of many texts behind the trained prefix, from as few tokens as it takes.

An attack asks about hundreds of variants of one sentence. Rows that are the same are run once, and
what rows have in common from their first token on is run once for all, and for the calls that
follow: under causal attention, and there alone, its keys and values depend on nothing that comes
after.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_prefix.backbones import CausalBackbone
from robust_prefix.backbones.base import LayerPrefixes
from robust_prefix.backbones.caches import Recorded
from robust_prefix.data import token_batches

if TYPE_CHECKING:
    from robust_prefix.prefixes.model import Encoded, PrefixModel

TOKENS_A_TEXT = 64
"""What a text of a batch may be long for a batch to have as many texts as the caller allows."""

_CANDIDATES = 64
"""Rows that are tried as the one whose beginning the others share."""

_WORTHWHILE = 0.1
"""Share of all tokens that must be saved: below it one plain pass is as fast."""

_PASS = 32
"""What a pass costs beside its tokens, in tokens: reading the weights."""

_KEPT_TOKENS = 4096
"""Tokens whose keys and values are kept: an attack asks about one sentence again and again."""


@dataclass(frozen=True)
class _Kept:
    """A row that was run: ``shared`` tokens of another one, then its own.

    Attributes:
        base: keys and values of that other one, ``(layers, 2, kv_heads, tokens, head_dim)``.
        recorded: those of the batch that the rest was run in.
        place: of the row in that batch.
    """

    base: Tensor | None
    shared: int
    own: int
    recorded: Recorded
    place: int

    def keys_and_values(self) -> Tensor:
        """``(layers, 2, kv_heads, tokens, head_dim)``."""
        rest = torch.stack(
            [
                torch.stack([part[self.place, :, : self.own] for part in self.recorded[layer]])
                for layer in sorted(self.recorded)
            ]
        )
        if self.base is None:
            return rest
        return torch.cat([self.base[:, :, :, : self.shared], rest], dim=3)


class Beginnings:
    """Keys and values of what was run last behind one prefix: texts that come may begin alike."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, ...], _Kept] = OrderedDict()

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(list(self._kept))

    def keep(
        self,
        rows: Sequence[tuple[int, ...]],
        shared: Sequence[int],
        base: Tensor | None,
        recorded: Recorded,
    ) -> None:
        """Keep a batch, and drop what was not used for longest.

        Args:
            rows: whole rows of tokens; of ``recorded``, those from ``shared`` on.
        """
        for place, (row, count) in enumerate(zip(rows, shared, strict=True)):
            self._kept[row] = _Kept(base, count, len(row) - count, recorded, place)
            self._kept.move_to_end(row)
        tokens = sum(kept.own for kept in self._kept.values())
        while tokens > _KEPT_TOKENS:
            tokens -= self._kept.popitem(last=False)[1].own

    def keys_and_values(self, tokens: tuple[int, ...]) -> Tensor:
        """Of a row that is kept: ``(layers, 2, kv_heads, tokens, head_dim)``."""
        self._kept.move_to_end(tokens)
        return self._kept[tokens].keys_and_values()


@torch.no_grad()
def plain_scores(model: PrefixModel, encoded: Encoded, batch_size: int = 32) -> Tensor:
    """Scores of the undefended classifier.

    Args:
        batch_size: texts of 64 tokens a pass; of shorter ones more, of longer ones fewer.

    Returns:
        float32 ``(len(encoded), classes)`` on the CPU.
    """
    rows = list(dict.fromkeys(encoded.rows))
    scores = torch.empty(len(rows), len(model.task.labels))
    prefix = model.prefix_tensor
    first: tuple[int, ...] = ()
    shared = [0] * len(rows)
    base: Tensor | None = None
    if _can_share(prefix, model):
        known = tuple(model.beginnings or ())
        first, shared = shared_beginning(rows, known)
        if first:
            kept = Beginnings() if model.beginnings is None else model.beginnings
            if first not in known:
                _run(model, [first], [0], prefix, None, kept)
            base = kept.keys_and_values(first)
    lengths = [len(row) - count for row, count in zip(rows, shared, strict=True)]
    for batch in token_batches(lengths, batch_size * TOKENS_A_TEXT):
        chosen, counts = [rows[index] for index in batch], [shared[index] for index in batch]
        scores[batch] = _run(model, chosen, counts, prefix, base, model.beginnings)
    places = {row: index for index, row in enumerate(rows)}
    return scores[[places[row] for row in encoded.rows]]


def _run(
    model: PrefixModel,
    rows: Sequence[tuple[int, ...]],
    shared: Sequence[int],
    prefix: LayerPrefixes,
    base: Tensor | None,
    kept: Beginnings | None,
) -> Tensor:
    """Scores of one batch ``(batch, classes)``, what it has in common with ``base`` not run.

    Args:
        kept: gets the keys and values of the batch, where they can be shared.
    """
    backbone = model.backbone
    tokens = backbone.pad([row[count:] for row, count in zip(rows, shared, strict=True)])
    past: int | Tensor = model.prefix.length
    seen = None
    if base is not None:
        known = base[:, :, :, : max(shared)]
        prefix = torch.cat([torch.as_tensor(prefix), known.to(model.backbone.dtype)], dim=3)
        past = seen = torch.tensor(shared, device=tokens.ids.device) + model.prefix.length
    hidden = model.learned.interact(model.embed(tokens, past))
    before = backbone.passes.forward
    if kept is not None and isinstance(backbone, CausalBackbone) and _can_share(prefix, model):
        with backbone.recording() as recorded:
            scores = model.run_to_logits(tokens, hidden, 0, prefix, seen)
        kept.keep(rows, shared, base, recorded)
    else:
        scores = model.run_to_logits(tokens, hidden, 0, prefix, seen)
    if base is not None:
        # What was run of each text, instead of whole texts.
        ran = sum(1 - count / len(row) for count, row in zip(shared, rows, strict=True))
        backbone.passes.forward = before + ran
    return scores.cpu()


def _can_share(prefix: LayerPrefixes, model: PrefixModel) -> TypeGuard[Tensor]:
    """In a layer without a prefix a beginning would stand elsewhere; a kernel looks back at it."""
    causal = isinstance(model.backbone, CausalBackbone)
    return causal and isinstance(prefix, Tensor) and model.learned.kernel is None


def shared_beginning(
    rows: Sequence[tuple[int, ...]], known: Sequence[tuple[int, ...]] = ()
) -> tuple[tuple[int, ...], list[int]]:
    """The beginning that saves most, and how much of it each row has.

    Args:
        known: beginnings that cost nothing, having been run before.

    Returns:
        The tokens to run first, or one of ``known``; none where it does not pay. For each row how
        many of them it begins with; at least its last token is left to the row itself.
    """
    nothing: tuple[tuple[int, ...], list[int]] = ((), [0] * len(rows))
    if not rows:
        return nothing
    width = max(map(len, rows))
    lengths = np.array([len(row) for row in rows])
    table = _table(rows, width)
    # Evenly from the sorted rows, so that each beginning that many have is among them.
    order = sorted(range(len(rows)), key=lambda index: rows[index])
    tried = [rows[index] for index in order[:: -(-len(rows) // _CANDIDATES)]]
    best, most = nothing, _WORTHWHILE * lengths.sum()
    for place, row in enumerate(_table([*known, *tried], width)):
        common = np.minimum((table == row).cumprod(1).sum(1), lengths - 1)
        is_known = place < len(known)
        gain = common.sum() - (0 if is_known else common.max() + _PASS)
        if gain > most:
            first = known[place] if is_known else tried[place - len(known)][: common.max()]
            best, most = (first, common.tolist()), gain
    return best


def _table(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    """Rows cut or filled with -1 to one width."""
    table = np.full((len(rows), width), -1, dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row[:width]
    return table
