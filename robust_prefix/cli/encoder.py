"""The sentence encoder for the similarity of adversaries, where one is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robust_prefix.evaluation.quality import Encoder

logger = logging.getLogger(__name__)


def find_encoder(data_dir: Path | None) -> Callable[[], Encoder] | None:
    """What loads it when it is first needed; None, with a line in the log, where it is not here."""
    from attacks.resources import find_resource, get_command, is_available
    from attacks.resources.sentence_encoder import load_encoder

    name = "sentence-encoder"
    if not is_available(name, data_dir):
        logger.info("no sentence encoder, so no similarity: run %s", get_command(name))
        return None
    return lambda: load_encoder(find_resource(name, data_dir))
