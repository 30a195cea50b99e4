"""What NLTK distributes: word lists, WordNet and a tagger, as NLTK lays them out.

They are looked for in this order, and the first folder that NLTK agrees to read wins:

1. ``data-dir``: ``nltk_data/`` in the data folder (``--data-dir`` or ``ROBUST_PREFIX_DATA``);
2. ``nltk``: NLTK's own folders (``NLTK_DATA``, ``~/nltk_data``, ``/usr/share/nltk_data``, ...);
3. ``cache``: ``nltk_data/`` in this project's cache (``ROBUST_PREFIX_CACHE``);
4. ``debian``: Debian's ``wordnet-base``, packed for NLTK into the cache on first use;
5. ``substitute``: something near that an installed package holds, written into the cache on first
   use. A result obtained with it says so.
"""

from __future__ import annotations

import importlib.util
import shlex
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attacks.resources import debian_wordnet
from attacks.resources.base import Found, Origin, Place, Resource, data_folder
from robust_prefix.caching import cache_dir
from robust_prefix.errors import ResourceError
from robust_prefix.files import write_text

# Folders that this module put on NLTK's path, so that they are not taken for the user's own.
_registered: set[str] = set()


@dataclass(frozen=True)
class _Derivation:
    """How to make a resource of something installed."""

    origin: Literal["debian", "substitute"]
    is_possible: Callable[[], bool]
    write: Callable[[Path], None]  # into the folder of its kind that it is given


class NltkData(Resource):
    """A corpus or tagger of NLTK's.

    Args:
        name: as NLTK's downloader knows it.
        kind: ``corpora`` or ``taggers``, the folder of ``nltk_data`` it is in.
        member: a file without which it is not there.
        derivation: what stands in where it is nowhere.
        alternative: another command that gets it, or "".
    """

    packages = ("nltk",)

    def __init__(
        self,
        name: str,
        kind: Literal["corpora", "taggers"],
        member: str,
        derivation: _Derivation | None = None,
        alternative: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.member = member
        self.derivation = derivation
        self.alternative = alternative

    @property
    def expected(self) -> str:
        """See ``Resource``."""
        noun = {"corpora": "corpus", "taggers": "tagger"}[self.kind]
        return f"the NLTK {noun} {self.name!r} in --data-dir, NLTK's folders or {_cache_folder()}"

    @property
    def command(self) -> str:
        """See ``Resource``."""
        return f"python -m nltk.downloader -d {shlex.quote(str(_cache_folder()))} {self.name}"

    def is_available(self, data_dir: str | Path | None) -> bool:
        """See ``Resource``."""
        try:
            found = self._look(data_dir) is not None
        except ResourceError:  # a broken archive: locate says which
            return False
        return found or (self.derivation is not None and self.derivation.is_possible())

    def locate(self, data_dir: str | Path | None) -> Place | None:
        """See ``Resource``.

        Raises:
            ResourceError: an archive is broken.
            StorageError: it had to be derived and the cache cannot be written.
        """
        place = self._look(data_dir)
        if place is None and self.derivation is not None and self.derivation.is_possible():
            folder = _derived_folder(self.derivation) / self.kind
            folder.parent.parent.mkdir(parents=True, exist_ok=True)
            for made in (folder.parent, folder):
                # Whatever the umask: NLTK refuses to read what others may write to.
                made.mkdir(mode=0o755, exist_ok=True)
            self.derivation.write(folder)
            place = self._look(data_dir)
        return place

    def root(self, path: Path) -> Any | None:
        """NLTK's pointer to what is at ``path``; None where NLTK refuses to read it.

        NLTK (3.10) refuses what other accounts may change, and warns about it.
        """
        import nltk

        folder = str(path.parent.parent)
        if folder not in map(str, nltk.data.path):
            # NLTK reads only below the folders on its path; the last place changes no other lookup.
            nltk.data.path.append(folder)
            _registered.add(folder)
        zipped = path.suffix == ".zip"
        root = f"{self.kind}/{path.name}" + (f"/{self.name}" if zipped else "")
        try:
            nltk.data.find(f"{root}/{self.member}", [folder])
            return nltk.data.find(f"{root}/" if zipped else root, [folder])
        except LookupError:
            return None
        except zipfile.BadZipFile:
            raise ResourceError(
                f"expected a zip archive at {path}, got a broken one; delete it and run: "
                f"{self.command}"
            ) from None

    def _look(self, data_dir: str | Path | None) -> Place | None:
        """The first place that has it and that NLTK agrees to read."""
        for folder, origin in self._folders(data_dir):
            parent = folder.expanduser().resolve() / self.kind
            for path in (parent / self.name, parent / f"{self.name}.zip"):
                present = path.is_file() or (path / self.member).is_file()
                if present and self.root(path) is not None:
                    return path, origin
        return None

    def _folders(self, data_dir: str | Path | None) -> Iterator[tuple[Path, Origin]]:
        """Where it may be, in the order of the module's docstring."""
        import nltk

        data = data_folder(data_dir)
        if data is not None:
            yield data / "nltk_data", "data-dir"
        for folder in nltk.data.path:
            if str(folder) not in _registered:
                yield Path(str(folder)), "nltk"
        yield _cache_folder(), "cache"
        if self.derivation is not None:
            yield _derived_folder(self.derivation), self.derivation.origin


def _derive_stopwords(corpora: Path) -> None:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    folder = corpora / "stopwords"
    folder.mkdir(mode=0o755, exist_ok=True)
    write_text(folder / "english", "".join(f"{word}\n" for word in sorted(ENGLISH_STOP_WORDS)))


NLTK_DATA = {
    resource.name: resource
    for resource in (
        NltkData(
            "wordnet",
            "corpora",
            member="data.noun",
            derivation=_Derivation(
                "debian",
                debian_wordnet.is_installed,
                lambda corpora: debian_wordnet.pack(corpora / "wordnet.zip"),
            ),
            alternative="apt-get install wordnet-base",
        ),
        NltkData(
            "stopwords",
            "corpora",
            member="english",
            derivation=_Derivation(
                "substitute",
                lambda: importlib.util.find_spec("sklearn") is not None,
                _derive_stopwords,
            ),
        ),
        NltkData(
            "averaged_perceptron_tagger_eng",
            "taggers",
            member="averaged_perceptron_tagger_eng.weights.json",
        ),
    )
}


def nltk_root(found: Found) -> Any:
    """NLTK's pointer to a found resource, from which its readers open files.

    Raises:
        ResourceError: NLTK no longer agrees to read it.
    """
    root = NLTK_DATA[found.name].root(found.path)
    if root is None:
        raise ResourceError(
            f"expected NLTK to read {found.path}, got a refusal; "
            "make the file yours alone to write: chmod -R go-w"
        )
    return root


def _cache_folder() -> Path:
    return cache_dir() / "nltk_data"


def _derived_folder(derivation: _Derivation) -> Path:
    """Apart from ``_cache_folder``, so that where a resource came from stays known."""
    return cache_dir() / derivation.origin / "nltk_data"
