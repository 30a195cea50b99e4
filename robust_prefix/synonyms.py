"""Clusters of words that a defence reads as one word.

Wang, Jin, He (UAI 2021, "Natural Language Adversarial Defense through Synonym Encoding") encode
each word as its most frequent synonym. Here the clusters are stars around the most frequent word
of the training data that is left, so that a cluster is never a chain of synonyms of synonyms; or
rare words alone are read as others, for those are most of what word lists offer an attack (Mozes et
al., EACL 2021, "Frequency-Guided Word Substitutions for Detecting Textual Adversarial Examples").
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_prefix.errors import ArtifactError
from robust_prefix.files import read_json, write_json
from robust_prefix.tasks import Fields

Substitutes = Callable[[str], Sequence[str]]
"""What may stand for a word, one word each as :data:`WORD` reads them; nothing for one that may not
change."""

WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
"""Letters, with apostrophes and hyphens inside."""

_FORMAT = 1


@dataclass(frozen=True)
class SynonymClusters:
    """Which word each word is read as.

    Two texts that differ only in words of one cluster are read as the same text, where these are in
    small letters, in capitals or with one capital in front; a word that stands for itself keeps
    whatever capitals it has.

    Attributes:
        representative: lower-case word to the lower-case word of its cluster that is read; words
            that stand for themselves are left out.
        config: what made it.
    """

    representative: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Changes with the words; 8 hexadecimal digits."""
        return hashlib.blake2b(
            json.dumps(sorted(self.representative.items())).encode(), digest_size=4
        ).hexdigest()

    def read_as(self, word: str) -> str:
        """The word of the cluster that ``word`` is read as, in the case of ``word``."""
        found = self.representative.get(word.lower())
        if found is None:
            return word
        if len(word) > 1 and word.isupper():
            return found.upper()
        return found[:1].upper() + found[1:] if word[:1].isupper() else found

    def shuffled(self, seed: int) -> SynonymClusters:
        """The same words read as others, what each is read as dealt out among them anew."""
        words = sorted(self.representative)
        dealt = [self.representative[word] for word in words]
        random.Random(seed).shuffle(dealt)
        return SynonymClusters(dict(zip(words, dealt, strict=True)), self.config)

    def save(self, path: str | Path) -> None:
        """Write as JSON.

        Raises:
            StorageError: writing failed; nothing is left half-written.
        """
        words = dict(sorted(self.representative.items()))
        write_json(
            path,
            {"kind": "synonyms", "version": _FORMAT, "config": dict(self.config), "words": words},
        )

    @classmethod
    def load(cls, path: str | Path) -> SynonymClusters:
        """The inverse of :meth:`save`.

        Raises:
            ArtifactError: the file is missing, damaged or something else.
        """
        values = read_json(path)
        known = isinstance(values, dict) and (values.get("kind"), values.get("version"))
        words = values.get("words") if known == ("synonyms", _FORMAT) else None
        if not isinstance(words, dict) or not all(isinstance(each, str) for each in words.values()):
            raise ArtifactError(
                f"expected synonym clusters of version {_FORMAT} in {path}, got something else; "
                "run robust-prefix fit-synonyms again"
            )
        return cls(words, values.get("config", {}))


def fit_synonyms(
    texts: Iterable[Fields], substitutes: Substitutes, rare: int = 0, **config: Any
) -> SynonymClusters:
    """Clusters for the words of training texts and for all that may stand for them.

    From the most frequent word on, each that is in no cluster yet takes in its synonyms that are
    in none; synonymy counts both ways. With ``rare``, words that occur as often stand for
    themselves, and each rarer one is read as its most frequent synonym, where that is not rare;
    a word that is to be left alone is none.

    Args:
        texts: the training texts.
        substitutes: the synonyms of a lower-case word; none for one that is to be left alone.
        rare: a word that occurs less often is rare; at 0 the clusters are stars.
        config: kept with the clusters.
    """
    counts = word_counts(texts)
    near = _near(counts, substitutes)
    if rare:
        closed = {word for word in near if not substitutes(word)}
        representative = _frequent(near, counts, rare, closed)
    else:
        representative = _stars(near, counts)
    return SynonymClusters(representative, {**config, "rare": rare, "training_words": len(counts)})


def word_counts(texts: Iterable[Fields]) -> Counter[str]:
    """How often each lower-case word occurs."""
    return Counter(
        match.group().lower()
        for fields in texts
        for text in fields
        for match in WORD.finditer(text)
    )


def _near(counts: Mapping[str, int], substitutes: Substitutes) -> Mapping[str, set[str]]:
    """The synonyms of words, both ways, and those of their synonyms, too: words of other texts that
    share no synonym with these."""
    near: defaultdict[str, set[str]] = defaultdict(set)
    waiting, seen = list(counts), set(counts)
    for _ in range(2):
        fresh = []
        for word in waiting:
            for other in map(str.lower, substitutes(word)):
                if other != word:
                    near[word].add(other)
                    near[other].add(word)
                    if other not in seen:
                        seen.add(other)
                        fresh.append(other)
        waiting = fresh
    return near


def _stars(near: Mapping[str, set[str]], counts: Mapping[str, int]) -> dict[str, str]:
    representative: dict[str, str] = {}
    taken: set[str] = set()
    for word in sorted(near, key=lambda word: (-counts.get(word, 0), word)):
        if word in taken:
            continue
        taken.add(word)
        for other in near[word] - taken:
            taken.add(other)
            representative[other] = word
    return representative


def _frequent(
    near: Mapping[str, set[str]], counts: Mapping[str, int], rare: int, closed: Set[str]
) -> dict[str, str]:
    """Word lists have "have" for "accept" and nothing for "have": a closed word stays, and stands
    for no other, or many would be read as function words."""
    representative = {}
    for word, others in near.items():
        count = counts.get(word, 0)
        frequent = [each for each in others - closed if counts.get(each, 0) >= rare]
        if count < rare and frequent and not (count and word in closed):
            representative[word] = min(frequent, key=lambda each: (-counts[each], each))
    return representative
