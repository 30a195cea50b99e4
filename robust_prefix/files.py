"""Writing files so that a failure leaves the old one or none, never a half."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robust_prefix.errors import ArtifactError, ConfigError, StorageError


@contextmanager
def atomic_path(destination: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``destination`` when the block succeeds.

    The parent folder is made where it is missing. If the block fails for any reason, a full
    disk or Ctrl-C included, the temporary file is removed and ``destination`` is untouched.

    Raises:
        StorageError: the operating system refused to write (no space, no permission).
    """
    destination = Path(destination)
    temporary: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, destination)
        temporary = None
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"expected to write {destination}, got {reason!r}; "
            "free some space or choose another folder, nothing was changed"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(destination: str | Path, text: str) -> None:
    """Write UTF-8 ``text`` atomically."""
    with atomic_path(destination) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(destination: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, keys in the given order, atomically."""
    write_text(destination, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"expected a JSON file at {path}, got nothing there") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"expected JSON in {path}, got {error}; write the file anew") from None


def check_same(path: str | Path, about: Mapping[str, Any]) -> None:
    """Keep results of something else from being replaced.

    Args:
        about: what the JSON object at ``path`` has to say under these keys, where it is there.

    Raises:
        ArtifactError: the file is not JSON.
        ConfigError: it says something else.
    """
    if not Path(path).is_file():
        return
    found = read_json(path)
    for key, wanted in about.items():
        if found.get(key) != wanted:
            raise ConfigError(
                f"expected {key} {wanted!r} in {path}, got {found.get(key)!r}, the results of "
                "something else; choose another folder with --out"
            )
