"""Where the masked language models are.

No package carries one, so each is looked for in this order: ``masked-lm/NAME`` in the data folder,
the same in the project's cache, and the Hub's cache, should it be there from other work.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from attacks.resources.base import Origin, Place, Resource, data_folder
from robust_prefix.caching import cache_dir

_FOLDER = "masked-lm"
_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


class MaskedModelFolder(Resource):
    """A model and its tokenizer as ``transformers`` saves them.

    Args:
        name: its folder's name.
        hub: where the Hub has it.
    """

    packages = ("transformers",)

    def __init__(self, name: str, hub: str) -> None:
        self.name = name
        self._hub = hub

    @property
    def expected(self) -> str:
        """See ``Resource``."""
        folder = f"{_FOLDER}/{self.name}"
        return f"the model {folder} in --data-dir or {cache_dir()}, or {self._hub} in the Hub cache"

    @property
    def command(self) -> str:
        """See ``Resource``."""
        folder = shlex.quote(str(cache_dir() / _FOLDER / self.name))
        return f"hf download {self._hub} {' '.join(_FILES)} --local-dir {folder}"

    def is_available(self, data_dir: str | Path | None) -> bool:
        """See ``Resource``."""
        return self.locate(data_dir) is not None

    def locate(self, data_dir: str | Path | None) -> Place | None:
        """See ``Resource``. Writes nothing and asks no server."""
        for folder, origin in self._folders(data_dir):
            if all((folder / name).is_file() for name in _FILES):
                return folder, origin
        return None

    def _folders(self, data_dir: str | Path | None) -> Iterator[tuple[Path, Origin]]:
        from huggingface_hub import try_to_load_from_cache

        data = data_folder(data_dir)
        if data is not None:
            yield data / _FOLDER / self.name, "data-dir"
        yield cache_dir() / _FOLDER / self.name, "cache"
        config = try_to_load_from_cache(self._hub, "config.json")
        if isinstance(config, str):
            yield Path(config).parent, "hub"


MASKED_MODELS = (
    MaskedModelFolder("bert-base-uncased", "google-bert/bert-base-uncased"),
    MaskedModelFolder("distilroberta-base", "distilbert/distilroberta-base"),
)
