"""How accuracy changes with one word of the prompt around a text.

A template is a hard prompt: somebody chose each of its words. Each is dropped, swapped with the
next, written in another case or with a comma, and replaced by its synonyms and by the words nearest
to it in the model's embeddings; what each change does to the accuracy on the same texts is counted
in pairs. One prompt's accuracy says little where a comma moves it (Zhao et al., ICML 2021,
"Calibrate Before Use", section 3, on the choice of the format).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import normalize

from robust_prefix.backbones import Backbone
from robust_prefix.data import rows_as_fields
from robust_prefix.defenses import NoDefense
from robust_prefix.errors import InputError
from robust_prefix.evaluation.statistics import mcnemar, paired_difference, wilson
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.prefixes.hard_prompt import readable_tokens
from robust_prefix.prefixes.manual_prompt import manual_prompt
from robust_prefix.progress import progress
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import MASK, Task

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = ("dropped", "swapped", "case", "punctuation", "synonym", "nearest")
"""Of changes, in the order in which they are made."""

_PART = re.compile(r"\{[^{}]*\}|\w+(?:['\u2019-]\w+)*|[^\w\s{}]")
_MARKS = (".", "!", ":")


@dataclass(frozen=True)
class Change:
    """One word of a template changed.

    Attributes:
        place: number of the word, from 0; a punctuation mark is a word, a column is none.
        word: as it was.
        kind: one of :data:`KINDS`.
        replacement: what stands there now; empty where it was dropped.
        template: the whole of it, changed.
    """

    place: int
    word: str
    kind: str
    replacement: str
    template: str


@dataclass(frozen=True)
class Effect:
    """What a change does; of the template as it is, ``change`` is None.

    Attributes:
        correct: texts whose class is right, of ``n``.
        low, high: the 95% Wilson interval of the accuracy.
        difference: accuracy less that of the template as it is, on the same texts.
        difference_low, difference_high: its 95% interval, see ``paired_difference``.
        p: of McNemar's exact test, one a change, not corrected for their number.
        moved: texts that got another class.
    """

    change: Change | None
    correct: int
    n: int
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    p: float
    moved: int

    @property
    def accuracy(self) -> float:
        """The share that is right, 0 to 1."""
        return self.correct / self.n

    def to_dict(self) -> dict[str, Any]:
        """One flat row of JSON values."""
        change = self.change or Change(-1, "", "as it is", "", "")
        values = dataclasses.asdict(self)
        del values["change"]
        return {**dataclasses.asdict(change), "accuracy": self.accuracy, **values}


def sensitivity(
    backbone: Backbone,
    task: Task,
    rows: Dataset,
    *,
    prefix: Prefix | None = None,
    substitutes: Substitutes | None = None,
    count: int = 2,
) -> list[Effect]:
    """Accuracy on ``rows`` with the template as it is, then with each change of it.

    Args:
        task: its template is changed; one that ``autoprompt`` wrote serves as well.
        rows: from :func:`robust_prefix.data.load_split`.
        prefix: trained behind the template; none where not given, which is zero-shot.
        substitutes: synonyms of a word; none where not given.
        count: how many synonyms, and how many of the nearest words, are tried for a word.
    """
    prefix = prefix or manual_prompt(backbone, task)
    texts, labels = rows_as_fields(task, rows), torch.tensor(rows["label"])
    near = Nearest(backbone) if count else None
    asked: list[Change | None] = [None, *changes(task, substitutes, near, count)]
    effects: list[Effect] = []
    first = torch.empty(0)
    with progress("sensitivity", len(asked)) as advance:
        for done, change in enumerate(asked, 1):
            template = task.template if change is None else change.template
            model = PrefixModel(backbone, dataclasses.replace(task, template=template), prefix)
            found = NoDefense().logits(model, texts).argmax(-1)
            first = found if change is None else first
            effects.append(_effect(change, found, first, labels))
            advance(done, f"accuracy {effects[-1].accuracy:.3f}")
    return effects


def _effect(
    change: Change | None, found: torch.Tensor, first: torch.Tensor, labels: torch.Tensor
) -> Effect:
    right, before = (found == labels).tolist(), (first == labels).tolist()
    low, high = wilson(sum(right), len(right)).interval
    difference = paired_difference(right, before)
    if difference.value is None:
        raise InputError("expected texts to measure on, got none")
    return Effect(
        change,
        sum(right),
        len(right),
        low,
        high,
        difference.value,
        difference.low,
        difference.high,
        mcnemar(right, before),
        int((found != first).sum()),
    )


def changes(
    task: Task,
    substitutes: Substitutes | None = None,
    near: Callable[[str, int], Sequence[str]] | None = None,
    count: int = 2,
) -> Iterator[Change]:
    """Every change of one word of ``task``'s template that leaves a template.

    Args:
        near: the words nearest to one, and how many are asked for.
        substitutes, count: see :func:`sensitivity`.
    """
    template = task.template
    words = [match for match in _PART.finditer(template) if not match[0].startswith("{")]
    for place, match in enumerate(words):
        word, (start, end) = match[0], match.span()
        seen = {template}

        def change(
            kind: str,
            replacement: str,
            changed: str,
            place: int = place,
            word: str = word,
            seen: set[str] = seen,
        ) -> Iterator[Change]:
            behind = changed.rstrip()
            if changed not in seen and (MASK in changed or not behind.endswith("}")):
                seen.add(changed)
                yield Change(place, word, kind, replacement, changed)

        yield from change("dropped", "", _without(template, start, end))
        if place + 1 < len(words):
            other = words[place + 1]
            between = template[end : other.start()]
            if "{" not in between:
                swapped = f"{other[0]}{between}{word}"
                yield from change(
                    "swapped", swapped, template[:start] + swapped + template[other.end() :]
                )
        for kind, replacement in _replacements(word, substitutes, near, count):
            yield from change(kind, replacement, template[:start] + replacement + template[end:])


def _without(template: str, start: int, end: int) -> str:
    """Without a word, and the space before it or, at the beginning, behind it."""
    before, behind = template[:start], template[end:]
    if before.endswith(" "):
        return before[:-1] + behind
    return before + (behind.removeprefix(" ") if not before else behind)


def _replacements(
    word: str,
    substitutes: Substitutes | None,
    near: Callable[[str, int], Sequence[str]] | None,
    count: int,
) -> Iterator[tuple[str, str]]:
    """Kind and text of what may stand for a word."""
    if not word[0].isalnum():
        yield from (("punctuation", mark) for mark in _MARKS if mark != word)
        return
    yield "case", word.capitalize() if word.islower() else word.lower()
    yield "case", word.upper()
    yield "punctuation", f"{word},"
    if substitutes is not None:
        yield from (("synonym", text) for text in substitutes(word)[:count])
    if near is not None:
        yield from (("nearest", text) for text in near(word, count))


class Nearest:
    """The words nearest to one in a model's input embeddings, by cosine.

    Words are whole readable tokens; of a word that is several tokens nothing is near.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._tokens = readable_tokens(backbone)
        self._table = normalize(backbone.embeddings[self._tokens].float(), dim=-1)
        self._texts = [backbone.decode([token]).strip() for token in self._tokens]

    def __call__(self, word: str, count: int) -> list[str]:
        """``count`` of them, the nearest first; other cases of the word itself are left out."""
        [tokens] = self._backbone.encode([f" {word}"])
        if len(tokens) != 1 or count == 0:
            return []
        cosines = self._table @ normalize(self._backbone.embeddings[tokens[0]].float(), dim=-1)
        ranked = (self._texts[place] for place in cosines.argsort(descending=True).tolist())
        found: list[str] = []
        for text in ranked:
            if text.lower() not in {word.lower(), *(each.lower() for each in found)}:
                found.append(text)
            if len(found) == count:
                break
        return found
