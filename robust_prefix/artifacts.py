"""Tensors with their metadata in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robust_prefix.errors import ArtifactError
from robust_prefix.files import atomic_path

FORMAT_VERSION = 1


def save_tensors(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write tensors and JSON metadata atomically.

    Args:
        kind: what the file is ("prefix", "subspaces"); checked at loading.

    Raises:
        StorageError: writing failed; nothing is left behind.
    """
    header = {
        "robust_prefix": json.dumps(
            {"kind": kind, "version": FORMAT_VERSION, **metadata}, sort_keys=True
        )
    }
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=header)
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(str(error)) from error


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of :func:`save_tensors`.

    Raises:
        ArtifactError: the file is missing, cut short, not ours, of another kind or version.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"expected a {kind} file at {path}, got nothing there")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("robust_prefix")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"expected a safetensors file at {path}, got a damaged or foreign one ({error}); "
            "make it again or copy it again"
        ) from None
    if header is None:
        raise ArtifactError(
            f"expected a {kind} file written by robust-prefix at {path}, got a safetensors file "
            f"with the tensors {sorted(tensors)[:3]}"
        )
    try:
        metadata = json.loads(header)
    except json.JSONDecodeError:
        metadata = None
    if not isinstance(metadata, dict):
        raise ArtifactError(f"expected JSON metadata in {path}, got {header[:40]!r}")
    if metadata.get("kind") != kind:
        raise ArtifactError(f"expected a {kind} file at {path}, got {metadata.get('kind')!r}")
    if metadata.get("version") != FORMAT_VERSION:
        raise ArtifactError(
            f"expected format version {FORMAT_VERSION} in {path}, got {metadata.get('version')!r}; "
            "use the robust-prefix release that wrote it"
        )
    return tensors, metadata
