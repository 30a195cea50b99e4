"""Certificates of labelled texts: what they come to, as files, and whether any attack broke one."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from robust_prefix.certification import Certificate
from robust_prefix.evaluation.formats import interval, percent
from robust_prefix.evaluation.protocols import Example
from robust_prefix.evaluation.records import Record
from robust_prefix.evaluation.statistics import Estimate, wilson
from robust_prefix.synonyms import WORD, Substitutes
from robust_prefix.tasks import Fields


@dataclass(frozen=True)
class Certified:
    """A labelled text with its certificate."""

    example: Example
    certificate: Certificate

    @property
    def correct(self) -> bool:
        """Whether the answer is the label."""
        return self.certificate.label == self.example.label

    def holds(self, words: int) -> bool:
        """Whether the answer, right or wrong, outlasts so many substitutions."""
        return self.certificate.label is not None and self.certificate.radius >= words


@dataclass(frozen=True)
class CertifiedShare:
    """What outlasts a number of substitutions.

    Attributes:
        words: that number.
        certified: texts whose answer cannot change.
        accuracy: texts whose answer is right and cannot change.
    """

    words: int
    certified: Estimate
    accuracy: Estimate


def certified_shares(rows: Sequence[Certified]) -> list[CertifiedShare]:
    """From no substitution to as many as any text outlasts; the first is clean accuracy."""
    most = max((row.certificate.radius for row in rows), default=0)
    return [
        CertifiedShare(
            words,
            wilson(sum(row.holds(words) for row in rows), len(rows)),
            wilson(sum(row.correct and row.holds(words) for row in rows), len(rows)),
        )
        for words in range(most + 1)
    ]


def median_radius(rows: Sequence[Certified]) -> int | None:
    """The most substitutions at which half of the texts are still answered right, for certain.

    None where not even half of the texts are right to begin with.
    """
    radii = sorted((row.certificate.radius if row.correct else -1 for row in rows), reverse=True)
    found = radii[(len(radii) - 1) // 2] if radii else -1
    return found if found >= 0 else None


def summarize(rows: Sequence[Certified]) -> dict[str, Any]:
    """JSON values: accuracy, median radius and what is certified at each number of words."""
    shares = certified_shares(rows)
    right = [row.certificate for row in rows if row.correct]
    relative = [each.radius / each.words for each in right if each.words]
    return {
        "n": len(rows),
        "abstained": sum(row.certificate.label is None for row in rows),
        "clean_accuracy": _values(shares[0].accuracy),
        "median_radius": median_radius(rows),
        "median_share_of_words": round(statistics.median(relative), 6) if relative else None,
        "certified": [
            {
                "words": share.words,
                "share": _values(share.certified),
                "accuracy": _values(share.accuracy),
            }
            for share in shares
        ],
    }


def _values(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": estimate.interval}


def certified_table(rows: Sequence[Certified]) -> Table:
    """What is certified at each number of substitutions."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("words\nchanged", justify="right")
    for name in ("certified", "95%\ninterval", "certified\naccuracy", "95%\ninterval"):
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for share in certified_shares(rows):
        table.add_row(
            str(share.words),
            *(percent(share.certified.value), interval(share.certified)),
            *(percent(share.accuracy.value), interval(share.accuracy)),
        )
    return table


def certificates_csv(rows: Iterable[Certified], labels: Sequence[str]) -> str:
    """A row a text; the text is a JSON list of its columns, as in ``results.csv``."""
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(
        ["example", "label", "prediction", "correct", "radius", "words", "support", "original"]
    )
    for row in rows:
        found = row.certificate
        writer.writerow(
            [
                row.example.index,
                labels[row.example.label],
                "" if found.label is None else labels[found.label],
                str(row.correct).lower(),
                "" if found.label is None else found.radius,
                found.words,
                f"{found.support:.6f}",
                json.dumps(row.example.fields, ensure_ascii=False),
            ]
        )
    return page.getvalue()


def words_substituted(original: Fields, changed: Fields, first_column: int = 0) -> int | None:
    """How many words were exchanged for others.

    None where their number is not the same, or a column before ``first_column`` is another.
    """
    pairs = [(a.split(), b.split()) for a, b in zip(original, changed, strict=True)]
    if any(len(before) != len(after) for before, after in pairs):
        return None
    if original[:first_column] != changed[:first_column]:
        return None
    return sum(x != y for before, after in pairs for x, y in zip(before, after, strict=True))


def listed_substitutions(
    original: Fields, changed: Fields, substitutes: Substitutes, first_column: int = 0
) -> int | None:
    """How many words were exchanged for listed substitutes; None where anything else was changed,
    upper and lower case aside."""
    if original[:first_column] != changed[:first_column]:
        return None
    count = 0
    for before, after in zip(original[first_column:], changed[first_column:], strict=True):
        between = [WORD.sub(" ", text).split() for text in (before, after)]
        words = [[word.lower() for word in WORD.findall(text)] for text in (before, after)]
        if between[0] != between[1] or len(words[0]) != len(words[1]):
            return None
        pairs = [(old, new) for old, new in zip(*words, strict=True) if old != new]
        if any(new not in map(str.lower, substitutes(old)) for old, new in pairs):
            return None
        count += len(pairs)
    return count


@dataclass(frozen=True)
class Tried:
    """What attacks made of certified texts.

    Attributes:
        attacked: attacks on texts with a certificate for a word at least.
        inside: adversaries within the radius of their text.
        broken: those of them that got another answer than the certified one: there must be none.
    """

    attacked: int
    inside: int
    broken: tuple[Record, ...]


def tried(
    rows: Iterable[Certified], records: Iterable[Record], substitutes: Substitutes | None = None
) -> Tried:
    """Hold certificates against what attacks found.

    Args:
        records: of the certified system alone; those of other texts are passed over.
        substitutes: the lists that the certificates are about; any word counts where not given.
    """
    certified = {(row.example.index, row.example.fields): row.certificate for row in rows}
    attacked, inside, broken = 0, 0, []
    for record in records:
        found = certified.get((record.example, record.original))
        if found is None or found.label is None:
            continue
        # a replay without an adversary is no attack on anything
        tried_on = record.protocol != "replay" or record.adversarial is not None
        attacked += record.attacked and tried_on and found.radius > 0
        if record.adversarial is None:
            continue
        texts = record.original, record.adversarial
        changed = (
            words_substituted(*texts, found.first_column)
            if substitutes is None
            else listed_substitutions(*texts, substitutes, found.first_column)
        )
        # no word changed: at most its case or the space around it, which is not certified
        if not changed or changed > found.radius:
            continue
        inside += 1
        if record.prediction_adversarial not in (found.label, None):
            broken.append(record)
    return Tried(attacked, inside, tuple(broken))
