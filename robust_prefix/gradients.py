"""How the loss of a text changes with the embeddings of its tokens: what a white-box attack reads.

Apart from what computes it, so that an attack or a report can name it without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Through = Literal["fixed", "unrolled"]
"""How a gradient passes a defence that tunes at inference: what it tuned is held constant, or the
tuning itself is back-propagated through."""


@dataclass(frozen=True)
class TokenGradients:
    """How the loss of one text changes with the embeddings of its prompt's tokens.

    Attributes:
        tokens: ids of the whole prompt, template included.
        spans: what each token covers as column, start and end in that column's text, with the
            space before it where the tokenizer counts that in; None for the template. The tokens
            that one character is made of cover the same one.
        gradient: of ``loss`` with respect to the input embeddings, float32 ``(tokens, hidden)``.
        loss: cross-entropy of the asked label over the label words.
    """

    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int, int] | None, ...]
    gradient: np.ndarray
    loss: float
