"""Neighbours of words in the counter-fitted vectors.

Mrksic et al. Counter-fitting Word Vectors to Linguistic Constraints. NAACL 2016.
https://aclanthology.org/N16-1018/

The list gives a word's nearest neighbours, up to eight and only those near enough to pass for
synonyms. It is the one that SAFER (Ye et al. 2020, https://aclanthology.org/2020.acl-main.317/)
publishes and that ASCC and DNE take their candidates from, too: a JSON object
``{"good": ["nice", ...], ...}`` of 50,000 lower-case words, about half of which have neighbours.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from attacks.resources.base import Found, Place, Resource, data_folder
from robust_prefix.caching import cache_dir
from robust_prefix.errors import ResourceError

Neighbors = Mapping[str, tuple[str, ...]]

_FILE = Path("lexical", "counterfitted_neighbors.json")
_ADDRESS = (
    "https://raw.githubusercontent.com/lushleaf/Structure-free-certified-NLP/"
    "f4a555816fdbf05fec3947816f1ef3c2859b01ce/counterfitted_neighbors.json"
)


class NeighborList(Resource):
    """``lexical/counterfitted_neighbors.json`` in the data folder, else in the project's cache."""

    name = "counterfitted-neighbors"

    @property
    def expected(self) -> str:
        """See ``Resource``."""
        return f"{_FILE.as_posix()} in --data-dir or {cache_dir()}"

    @property
    def command(self) -> str:
        """See ``Resource``."""
        return f"curl -fsSL --create-dirs -o {shlex.quote(str(cache_dir() / _FILE))} {_ADDRESS}"

    def is_available(self, data_dir: str | Path | None) -> bool:
        """See ``Resource``."""
        return self.locate(data_dir) is not None

    def locate(self, data_dir: str | Path | None) -> Place | None:
        """See ``Resource``. Writes nothing."""
        data = data_folder(data_dir)
        if data is not None and (data / _FILE).is_file():
            return data / _FILE, "data-dir"
        cached = cache_dir() / _FILE
        return (cached, "cache") if cached.is_file() else None


@lru_cache(maxsize=2)
def load_neighbors(found: Found) -> Neighbors:
    """The words that have neighbours, each with its neighbours from the nearest on.

    Raises:
        ResourceError: the file is no JSON object of word lists.
    """
    try:
        content = json.loads(found.path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _bad(found, str(error)) from None
    if not isinstance(content, dict):
        raise _bad(found, type(content).__name__)
    for word, near in content.items():
        if not isinstance(near, list) or not all(isinstance(n, str) and n for n in near):
            raise _bad(found, f"{word!r}: {near!r}")
    return {word: tuple(near) for word, near in content.items() if near}


def neighbors_of(word: str, neighbors: Neighbors) -> list[str]:
    """What may stand for ``word``, in its case: ``Good`` gives ``Nice``, ``GOOD`` ``NICE``."""
    cased = (match_case(near, word) for near in neighbors.get(word.lower(), ()))
    return [near for near in dict.fromkeys(cased) if near != word]


def match_case(word: str, like: str) -> str:
    """``word`` in the case of ``like``: capitals throughout, a first one, or as it is."""
    if len(like) > 1 and like.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _bad(found: Found, got: str) -> ResourceError:
    return ResourceError(
        f"expected a JSON object of word lists in {found.path}, got {got}; "
        f"replace the file: {NeighborList().command}"
    )
