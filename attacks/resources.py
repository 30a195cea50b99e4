"""What the attacks need beyond Python packages: where it is, and how to get it.

A resource is looked for in this order, and the first folder that NLTK agrees to read wins:

1. ``data-dir``: ``nltk_data/`` in the data folder (``--data-dir`` or ``ROBUST_PREFIX_DATA``);
2. ``nltk``: NLTK's own folders (``NLTK_DATA``, ``~/nltk_data``, ``/usr/share/nltk_data``, ...);
3. ``cache``: ``nltk_data/`` in this project's cache (``ROBUST_PREFIX_CACHE``);
4. ``debian``: Debian's ``wordnet-base``, packed for NLTK into the cache on first use;
5. ``substitute``: something near that an installed package holds, written into the cache on first
   use. A result obtained with it says so.

Nothing here ever downloads.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from attacks import debian_wordnet
from robust_prefix.caching import cache_dir
from robust_prefix.errors import ResourceError, unknown_name
from robust_prefix.files import write_text

Origin = Literal["data-dir", "nltk", "cache", "debian", "substitute"]

INSTALL_COMMAND = 'pip install "robust-prefix[attacks]"'


@dataclass(frozen=True)
class Found:
    """A resource that is there."""

    name: str
    path: Path  # the folder or zip file
    origin: Origin
    # Of the zip file; of a folder: of its files' names and contents, in order of name.
    sha256: str


@dataclass(frozen=True)
class _Resource:
    """An entry of the manifest: a corpus as NLTK lays it out."""

    name: str
    member: str  # a file without which the corpus is not there
    derived: Literal["debian", "substitute"]  # where ``derive`` takes it from
    can_derive: Callable[[], bool]
    derive: Callable[[Path], None]  # writes it into the ``corpora`` folder it is given
    alternative: str  # another command that gets it, or ""


def _derive_stopwords(corpora: Path) -> None:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    folder = corpora / "stopwords"
    folder.mkdir(mode=0o755, exist_ok=True)
    write_text(folder / "english", "".join(f"{word}\n" for word in sorted(ENGLISH_STOP_WORDS)))


_MANIFEST = {
    resource.name: resource
    for resource in (
        _Resource(
            name="wordnet",
            member="data.noun",
            derived="debian",
            can_derive=debian_wordnet.is_installed,
            derive=lambda corpora: debian_wordnet.pack(corpora / "wordnet.zip"),
            alternative="apt-get install wordnet-base",
        ),
        _Resource(
            name="stopwords",
            member="english",
            derived="substitute",
            can_derive=lambda: importlib.util.find_spec("sklearn") is not None,
            derive=_derive_stopwords,
            alternative="",
        ),
    )
}

# Folders that this module put on NLTK's path, so that they are not taken for the user's own.
_registered: set[str] = set()


def find_resource(name: str, data_dir: str | Path | None = None) -> Found:
    """Find a resource, deriving it where something installed allows that.

    Args:
        name: ``wordnet`` or ``stopwords``.
        data_dir: the data folder; ``ROBUST_PREFIX_DATA`` serves where it is not given.

    Raises:
        ConfigError: no resource has that name.
        ResourceError: it is nowhere to be had; the message holds the command that gets it.
        StorageError: it had to be derived and the cache cannot be written.
    """
    resource = _resource(name)
    require_package("nltk")
    found = _look(resource, data_dir)
    if found is None and resource.can_derive():
        corpora = _derived_folder(resource) / "corpora"
        corpora.parent.parent.mkdir(parents=True, exist_ok=True)
        for folder in (corpora.parent, corpora):
            # Whatever the umask: NLTK refuses to read what others may write to.
            folder.mkdir(mode=0o755, exist_ok=True)
        resource.derive(corpora)
        found = _look(resource, data_dir)
    if found is None:
        other = f" (or: {resource.alternative})" if resource.alternative else ""
        raise ResourceError(
            f"expected the NLTK corpus {name!r} in --data-dir, NLTK's folders or "
            f"{_cache_folder()}, got nothing readable there; run: {get_command(name)}{other}"
        )
    path, origin = found
    return Found(name, path, origin, _sha256(path))


def is_available(name: str, data_dir: str | Path | None = None) -> bool:
    """Whether ``find_resource`` would succeed. Writes nothing.

    Raises:
        ConfigError: no resource has that name.
    """
    resource = _resource(name)
    if importlib.util.find_spec("nltk") is None:
        return False
    try:
        return _look(resource, data_dir) is not None or resource.can_derive()
    except ResourceError:  # a broken archive: find_resource says which
        return False


def get_command(name: str) -> str:
    """The command that gets a resource into this project's cache."""
    return f"python -m nltk.downloader -d {shlex.quote(str(_cache_folder()))} {name}"


def corpus_root(found: Found) -> Any:
    """NLTK's pointer to a found corpus, from which its readers open files.

    Raises:
        ResourceError: NLTK no longer agrees to read it.
    """
    root = _nltk_root(_MANIFEST[found.name], found.path)
    if root is None:
        raise ResourceError(
            f"expected NLTK to read {found.path}, got a refusal; "
            "make the file yours alone to write: chmod -R go-w"
        )
    return root


def require_package(name: str) -> None:
    """Check, without importing it, that a package of the extra ``attacks`` is there.

    Raises:
        ResourceError: it is not.
    """
    if importlib.util.find_spec(name) is None:
        raise ResourceError(f"expected the package {name}, got none; run: {INSTALL_COMMAND}")


def _resource(name: str) -> _Resource:
    if name not in _MANIFEST:
        raise unknown_name("resource", name, _MANIFEST)
    return _MANIFEST[name]


def _cache_folder() -> Path:
    return cache_dir() / "nltk_data"


def _derived_folder(resource: _Resource) -> Path:
    """Apart from ``_cache_folder``, so that where a resource came from stays known."""
    return cache_dir() / resource.derived / "nltk_data"


def _folders(resource: _Resource, data_dir: str | Path | None) -> Iterator[tuple[Path, Origin]]:
    """Where to look, in order."""
    import nltk

    data_dir = data_dir or os.environ.get("ROBUST_PREFIX_DATA")
    if data_dir:
        yield Path(data_dir) / "nltk_data", "data-dir"
    for folder in nltk.data.path:
        if str(folder) not in _registered:
            yield Path(str(folder)), "nltk"
    yield _cache_folder(), "cache"
    yield _derived_folder(resource), resource.derived


def _look(resource: _Resource, data_dir: str | Path | None) -> tuple[Path, Origin] | None:
    """The first place that has the corpus and that NLTK agrees to read."""
    for folder, origin in _folders(resource, data_dir):
        corpora = folder.expanduser().resolve() / "corpora"
        for path in (corpora / resource.name, corpora / f"{resource.name}.zip"):
            present = path.is_file() or (path / resource.member).is_file()
            if present and _nltk_root(resource, path) is not None:
                return path, origin
    return None


def _nltk_root(resource: _Resource, path: Path) -> Any | None:
    """NLTK's pointer to the corpus at ``path``; None where NLTK refuses to read it.

    NLTK (3.10) refuses what other accounts may change, and warns about it.
    """
    import nltk

    folder = str(path.parent.parent)
    if folder not in map(str, nltk.data.path):
        # NLTK reads only below the folders on its path; the last place changes no other lookup.
        nltk.data.path.append(folder)
        _registered.add(folder)
    root = f"corpora/{path.name}" + (f"/{resource.name}" if path.suffix == ".zip" else "")
    try:
        nltk.data.find(f"{root}/{resource.member}", [folder])
        return nltk.data.find(f"{root}/" if path.suffix == ".zip" else root, [folder])
    except LookupError:
        return None
    except zipfile.BadZipFile:
        raise ResourceError(
            f"expected a zip archive at {path}, got a broken one; delete it and run: "
            f"{get_command(resource.name)}"
        ) from None


def _sha256(path: Path) -> str:
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
