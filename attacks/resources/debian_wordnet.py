"""WordNet as Debian's package ``wordnet-base`` ships it, packed for NLTK.

The package holds the WordNet 3.0 database, yet NLTK's reader also opens ``lexnames`` and
``index.sense``, which it lacks. Both follow from the rest; their formats are in the manual pages
wndb(5WN), senseidx(5WN) and lexnames(5WN) of WordNet 3.0.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from robust_prefix.errors import ResourceError
from robust_prefix.files import atomic_path

FOLDER = Path("/usr/share/wordnet")

# lexnames(5WN): the number of a lexicographer file is its place in this list.
_LEXNAMES = """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body
    noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location
    noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process
    noun.quantity noun.relation noun.shape noun.state noun.substance noun.time verb.body
    verb.change verb.cognition verb.communication verb.competition verb.consumption verb.contact
    verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative
    verb.weather adj.ppl
""".split()  # noqa: SIM905  (a table reads better than 45 quoted strings)
_CATEGORIES = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
_SYNSET_TYPES = {"n": 1, "v": 2, "a": 3, "r": 4, "s": 5}
_COPIED = (
    *(f"{kind}.{category}" for kind in ("data", "index") for category in _CATEGORIES),
    *(f"{category}.exc" for category in _CATEGORIES),
    "cntlist.rev",
)


class _Synset(NamedTuple):
    """What a sense key says of one line of a ``data`` file."""

    offset: str
    file_number: str
    kind: str  # n, v, a, r, or s for an adjective that belongs to a head adjective
    words: list[tuple[str, int]]  # (lemma, lex_id)
    head: str | None  # offset of the head synset of an "s"


def is_installed() -> bool:
    """Whether the package's database is where Debian puts it."""
    return all((FOLDER / name).is_file() for name in _COPIED)


def pack(destination: Path) -> None:
    """Write ``destination``, a ``wordnet.zip`` as NLTK reads it; equal input gives equal bytes.

    Raises:
        ResourceError: a file of the package is not the database it should be.
        StorageError: ``destination`` cannot be written.
    """
    try:
        files = {name: (FOLDER / name).read_bytes() for name in _COPIED}
        files["lexnames"] = "".join(_lexnames()).encode()
        files["index.sense"] = "".join(sorted(set(_senses(files)))).encode()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ResourceError(
            f"expected the WordNet database of wordnet-base in {FOLDER}, got {error!r}; "
            "reinstall it: apt-get install --reinstall wordnet-base"
        ) from error
    with atomic_path(destination) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(files):
            # ZipInfo's fixed default date keeps the archive, and so its checksum, reproducible.
            member = zipfile.ZipInfo(f"wordnet/{name}")
            archive.writestr(member, files[name], zipfile.ZIP_DEFLATED)


def _lexnames() -> Iterator[str]:
    for number, name in enumerate(_LEXNAMES):
        yield f"{number:02d}\t{name}\t{_CATEGORIES[name.partition('.')[0]]}\n"


def _lines(file: bytes) -> Iterator[list[str]]:
    """The fields of each line that is not part of the licence, which is indented."""
    for line in file.decode().splitlines():
        if not line.startswith(" "):
            yield line.split()


def _synsets(file: bytes) -> dict[str, _Synset]:
    """The synsets of a ``data`` file by their offset."""
    synsets = {}
    for fields in _lines(file):
        offset, file_number, kind = fields[:3]
        words_end = 4 + 2 * int(fields[3], 16)
        words = [
            # An adjective may carry a marker of its position: "galore(ip)".
            (fields[place].partition("(")[0].lower(), int(fields[place + 1], 16))
            for place in range(4, words_end, 2)
        ]
        pointers_end = words_end + 1 + 4 * int(fields[words_end])
        pointers = [fields[place : place + 2] for place in range(words_end + 1, pointers_end, 4)]
        similar = [target for symbol, target in pointers if symbol == "&"]
        head = similar[0] if kind == "s" else None
        synsets[offset] = _Synset(offset, file_number, kind, words, head)
    return synsets


def _senses(files: dict[str, bytes]) -> Iterator[str]:
    """The lines of ``index.sense``: sense key, offset, rank among the lemma's senses, count."""
    counts = {fields[0]: fields[2] for fields in _lines(files["cntlist.rev"])}
    for category in _CATEGORIES:
        synsets = _synsets(files[f"data.{category}"])
        # An index line ends with the lemma's offsets, the most frequent sense first.
        ranked = {f[0]: f[-int(f[2]) :] for f in _lines(files[f"index.{category}"])}
        for synset in synsets.values():
            head = "{}:{:02d}".format(*synsets[synset.head].words[0]) if synset.head else ":"
            kind = _SYNSET_TYPES[synset.kind]
            for lemma, lex_id in synset.words:
                key = f"{lemma}%{kind}:{synset.file_number}:{lex_id:02d}:{head}"
                rank = ranked[lemma].index(synset.offset) + 1
                yield f"{key} {synset.offset} {rank} {counts.get(key, 0)}\n"
