"""Synonym encoding (Wang, Jin, He, UAI 2021): the words of a cluster are read as one word."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass

from robust_prefix.defenses.base import Defense, Fitted
from robust_prefix.defenses.text import TextDefense
from robust_prefix.errors import ArtifactError
from robust_prefix.rewriting import Rewritten
from robust_prefix.synonyms import WORD, SynonymClusters


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class SynonymsConfig:
    """Settings of the encoding.

    Attributes:
        table: fingerprint of the clusters, so that a record says which; of those at hand.
        shuffled: seed by which words change what they are read as with one another, for a control
            that changes as many words and means nothing; none where not given.
    """

    table: str | None = None
    shuffled: int | None = Field(default=None, ge=0)


class Synonyms(TextDefense[SynonymsConfig]):
    """Reads each word as the most frequent word of its cluster.

    Guarantee: texts that differ only in words of one cluster, each in small letters, in capitals or
    with one capital in front in both, get the same answer, whatever the classifier. Nothing is
    promised for words of different clusters, and a word's synonyms may be in other clusters than
    the word.

    Args:
        clusters: see :func:`robust_prefix.synonyms.fit_synonyms`.

    Raises:
        ArtifactError: there are no clusters, or other ones than the settings name.
    """

    name = "synonyms"
    summary = "reads all words of a cluster of synonyms as one word"
    stage = 2
    config_type = SynonymsConfig
    needs_synonyms = True

    def __init__(
        self,
        clusters: SynonymClusters | None,
        inner: Defense[Any] | None = None,
        **settings: Any,
    ) -> None:
        if clusters is None:
            raise ArtifactError(
                f"expected synonym clusters for the defence {self.name!r}, got none; "
                "run robust-prefix fit-synonyms on the run first"
            )
        super().__init__(inner, **settings)
        if self.config.table not in (None, clusters.fingerprint):
            raise ArtifactError(
                f"expected the clusters {self.config.table} for the defence {self.name!r}, got "
                f"{clusters.fingerprint}, which were fitted since; leave out table= to use them"
            )
        # In the settings, and so in every record.
        self.config = dataclasses.replace(self.config, table=clusters.fingerprint)
        self.built_from = Fitted(synonyms=clusters)
        if self.config.shuffled is not None:
            clusters = clusters.shuffled(self.config.shuffled)
        self.clusters = clusters

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(fitted.synonyms, inner, **settings)

    @property
    def keeps_words(self) -> bool:
        return not any(len(word.split()) != 1 for word in self.clusters.representative.values())

    def rewrite(self, text: str) -> Rewritten:
        """See ``TextDefense``."""
        changed = []
        for match in WORD.finditer(text):
            read_as = self.clusters.read_as(match.group())
            if read_as != match.group():
                changed.append((match.start(), match.end(), read_as))
        return Rewritten.of(text).replace(changed)
