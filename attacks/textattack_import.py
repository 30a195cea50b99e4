"""The first ``import textattack``, which only this module does.

Left alone, that import tries to download NLTK data and a Stanza model, fails where the stopwords
are missing, redirects the Hugging Face and XDG caches of the whole process to its own, closes every
log handler that exists and writes into the home folder. Here it does none of that.
"""

from __future__ import annotations

import logging
import logging.config
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from attacks.resources import INSTALL_COMMAND, find_resource, require_package
from robust_prefix.caching import cache_dir
from robust_prefix.errors import ResourceError
from robust_prefix.files import write_text

# Its presence tells TextAttack 0.3.11 that the downloads after installation are done.
_DOWNLOADS_DONE = "post_install_check_3"


def import_textattack(data_dir: str | Path | None = None) -> None:
    """Make ``textattack`` importable without side effects; afterwards plain imports of it are safe.

    Args:
        data_dir: where to look for the stopwords that TextAttack loads while being imported.

    Raises:
        ResourceError: TextAttack is not installed or does not fit what is.
        StorageError: the cache cannot be written.
    """
    if "textattack" in sys.modules:
        return
    require_package("textattack")
    find_resource("stopwords", data_dir)  # puts them where NLTK finds them
    # These read the cache variables once, when they are imported: before TextAttack changes them.
    import datasets  # noqa: F401
    import transformers  # noqa: F401

    try:
        with _side_effects_undone():
            import textattack
    except ImportError as error:
        raise ResourceError(
            f"expected to import TextAttack, got {error}; run: {INSTALL_COMMAND}"
        ) from error
    for logger in (textattack.shared.logger, logging.getLogger("jieba")):
        logger.setLevel(logging.ERROR)


@contextmanager
def _side_effects_undone() -> Iterator[None]:
    """No NLTK download, no change of the logging set-up; the environment as before afterwards."""
    import nltk

    folder = Path(os.environ.get("TA_CACHE_DIR") or cache_dir() / "textattack")
    write_text(folder / _DOWNLOADS_DONE, "")
    with (
        mock.patch.dict(os.environ, {"TA_CACHE_DIR": str(folder)}),
        mock.patch.object(nltk, "download", _no_download),
        # TextAttack and flair each call this at import, which closes every handler that exists.
        mock.patch.object(logging.config, "dictConfig", _no_logging_change),
    ):
        yield


def _no_download(*_args: Any, **_kwargs: Any) -> bool:
    return False


def _no_logging_change(_config: Any) -> None:
    return None
