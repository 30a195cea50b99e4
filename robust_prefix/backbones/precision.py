"""Device and number format by measurement."""

from __future__ import annotations

import hashlib
import platform
import time
from pathlib import Path

import torch

from robust_prefix.caching import cache_dir
from robust_prefix.errors import ConfigError, RobustPrefixError
from robust_prefix.files import read_json, write_json

DEVICES = ("auto", "cpu", "cuda")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes a GPU where there is one.

    Raises:
        ConfigError: the name is unknown, or cuda was asked for and there is none.
    """
    if name not in DEVICES:
        raise ConfigError(f"expected a device of {'/'.join(DEVICES)}, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("expected a CUDA device, got none on this machine; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` takes bfloat16 where it is clearly faster than float32.

    A CPU is timed once and the answer kept in the cache, so that equal runs on one machine use
    equal arithmetic.

    Raises:
        ConfigError: the name is unknown.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise ConfigError(f"expected a dtype of auto/{'/'.join(DTYPES)}, got {name!r}")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return _fastest_on_cpu()


def _fastest_on_cpu() -> torch.dtype:
    parts = (platform.node(), _processor(), torch.backends.cpu.get_cpu_capability())
    machine = "|".join((*parts, torch.__version__))  # a cache may be shared by unlike machines
    key = hashlib.sha256(machine.encode()).hexdigest()[:16]
    path = cache_dir() / "precision" / f"{key}.json"
    if path.exists():
        try:
            return DTYPES[read_json(path)["dtype"]]
        except (RobustPrefixError, KeyError, TypeError):
            path.unlink(missing_ok=True)
    seconds = {name: _matmul_seconds(dtype) for name, dtype in DTYPES.items()}
    name = "bfloat16" if seconds["bfloat16"] * 1.2 < seconds["float32"] else "float32"
    write_json(path, {"dtype": name, "seconds": seconds, "machine": machine})
    return DTYPES[name]


def _processor() -> str:
    """The CPU's name; on Linux ``platform`` says no more than its family."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _matmul_seconds(dtype: torch.dtype) -> float:
    """The best of a few products of the size a small language model multiplies."""
    left = torch.ones(1024, 576, dtype=dtype)
    right = torch.ones(576, 1536, dtype=dtype)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(12):
            start = time.perf_counter()
            left @ right
            best = min(best, time.perf_counter() - start)
    return best
