"""Where this project keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``ROBUST_PREFIX_CACHE``, else ``robust-prefix`` in the user's cache folder."""
    own = os.environ.get("ROBUST_PREFIX_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "robust-prefix"
