"""Tasks: the columns of an example, the prompt they are put into, and the words that name classes.

A text becomes a prompt with an *answer position* ``o``: its last token, or on an encoder the token
that stands for ``{mask}``. The scores of the label words at ``o`` give the class.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from robust_prefix.errors import ConfigError, InputError, unknown_name
from robust_prefix.specs import build_config

Fields = tuple[str, ...]
"""The text columns of one example in ``task.columns`` order."""

SPLITS = ("train", "dev", "test")
VIRTUAL = "\0"
"""Stands for one virtual token, or for the mask, in a rendered prompt; no text may have it."""
MASK = "{mask}"
"""Where in a template an encoder is to predict the label word."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_VIRTUAL_TOKENS = re.compile(r"\{prompt:([^{}]*)\}")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Task:
    """A classification task put as a prompt.

    Attributes:
        name: short name, used in file names and reports.
        columns: the text columns, in the order users give them.
        labels: class names; a class's number is its place here.
        label_words: what the model is to say for each class, one token each in its tokenizer,
            usually with the leading space that a word in a sentence has.
        template: the prompt with ``{column}`` for each column. It must not end in a column, so
            that the answer position is the same token for every text. ``{prompt:3}`` stands for
            three virtual tokens of a method that learns embeddings; ``{mask}`` is the answer
            position of an encoder that predicts masked words, and may stand anywhere, once.
        label_column: the data column with the class, as a number or as a class name.
        max_tokens: prompts longer than this lose tokens from the end of their longest column.
        splits: where each of train, dev and test is: a CSV, JSONL or Parquet path relative to
            ``data_dir``, or ``hub:OWNER/NAME:SPLIT``; or several of them, whose rows follow each
            other.
        data_dir: the folder relative paths start from.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    label_words: tuple[str, ...]
    template: str
    label_column: str = "label"
    max_tokens: int = 256
    splits: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        owner = f"task {self.name!r}"
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ConfigError(
                f"expected at least two different labels in {owner}, got {self.labels}"
            )
        if len(self.label_words) != len(self.labels):
            raise ConfigError(
                f"expected one label word for each of the {len(self.labels)} labels of {owner}, "
                f"got {len(self.label_words)}"
            )
        displaced = [
            label
            for place, label in enumerate(self.labels)
            if label.strip().isdecimal() and int(label) != place
        ]
        if displaced:
            raise ConfigError(
                f"expected class names of {owner} that are numbers to be their own places, from 0 "
                f"on, got {displaced[0]!r}; a 1 in the data could mean either"
            )
        odd = [column for column in self.columns if not re.fullmatch(r"\w+", column)]
        if odd:
            raise ConfigError(
                f"expected letters, digits and _ in the column names of {owner}, got {odd[0]!r}; "
                "rename it in the data"
            )
        found = _PLACEHOLDER.findall(self.template)
        if self._masked:
            found.remove("mask")
        if sorted(found) != sorted(self.columns):
            raise ConfigError(
                f"expected each of the columns {list(self.columns)} once in the template of "
                f"{owner}, got {found}; write a column as {{name}}"
            )
        counts = _VIRTUAL_TOKENS.findall(self.template)
        wrong = [count for count in counts if not count.isdecimal() or not 1 <= int(count) <= 512]
        if wrong or VIRTUAL in self.template:
            raise ConfigError(
                f"expected virtual tokens as {{prompt:N}} with N of 1 to 512 in the template of "
                f"{owner}, got {f'{{prompt:{wrong[0]}}}' if wrong else 'a NUL byte'}"
            )
        if not self._masked and self._prompt.endswith("}"):
            raise ConfigError(
                f"expected words after the last column in the template of {owner}, "
                f"got {self.template!r}; end it with the question, such as ' good or bad ?'"
            )
        if self.max_tokens < 8:
            raise ConfigError(
                f"expected max_tokens of at least 8 in {owner}, got {self.max_tokens}"
            )

    @cached_property
    def _prompt(self) -> str:
        """The template with one character for each virtual token, and one for the mask."""
        prompt = _with_virtual_tokens(self.template)
        return prompt.replace(MASK, VIRTUAL) if self._masked else prompt

    @property
    def _masked(self) -> bool:
        return MASK in self.template and "mask" not in self.columns

    @cached_property
    def mask(self) -> int | None:
        """Which of the :data:`VIRTUAL` characters of a rendered prompt is the mask, counted from 0;
        None where the template has none."""
        if not self._masked:
            return None
        return _with_virtual_tokens(self.template.partition(MASK)[0]).count(VIRTUAL)

    @cached_property
    def virtual_tokens(self) -> tuple[int, int]:
        """How many virtual tokens the template begins with, and how many follow later in it."""
        before = len(self._prompt) - len(self._prompt.lstrip(VIRTUAL))
        if self.mask is None:
            return before, self._prompt.count(VIRTUAL) - before
        before = min(before, self.mask)
        return before, self._prompt.count(VIRTUAL) - before - 1

    def sources(self, split: str) -> tuple[str, ...]:
        """Where a split's rows are, in order; ``splits`` must have it."""
        found = self.splits[split]
        return (found,) if isinstance(found, str) else tuple(found)

    def with_more(self, files: Iterable[str | Path]) -> Task:
        """The same task with the rows of ``files`` behind those of its train split.

        Whatever is trained or fitted on a run of it is so on all of them.
        """
        added = [str(Path(file).absolute()) for file in files]
        if not added:
            return self
        train = (*(self.sources("train") if "train" in self.splits else ()), *added)
        return dataclasses.replace(self, splits={**self.splits, "train": train})

    def fields(
        self, text: str | Sequence[str] | Mapping[str, str], where: str = "text 0"
    ) -> Fields:
        """One example's text as ``Fields``: a string, a sequence of columns, or a mapping.

        Args:
            text: a string for a task of one column; otherwise the columns.
            where: how to call the text in the message.

        Raises:
            InputError: wrong number of columns, no string, nothing but spaces, a NUL byte or half
                a surrogate pair.
        """
        if isinstance(text, Mapping):
            missing = [column for column in self.columns if column not in text]
            if missing:
                raise InputError(
                    f"expected the columns {list(self.columns)} in {where}, got {list(text)}"
                )
            values: tuple[Any, ...] = tuple(text[column] for column in self.columns)
        else:
            several = isinstance(text, Sequence) and not isinstance(text, str | bytes)
            values = tuple(text) if several else (text,)
        if len(values) != len(self.columns):
            raise InputError(
                f"expected {len(self.columns)} columns {list(self.columns)} in {where}, "
                f"got {len(values)}"
            )
        for column, value in zip(self.columns, values, strict=True):
            if not isinstance(value, str):
                raise InputError(f"expected {column} of {where} to be a string, got {value!r}")
            if not value.strip():
                raise InputError(
                    f"expected words in {column} of {where}, got "
                    f"{'an empty text' if not value else 'only spaces'}; leave it out or fill it in"
                )
            if "\0" in value:
                raise InputError(
                    f"expected {column} of {where} without control characters, got a NUL byte at "
                    f"character {value.index(chr(0))}; remove it"
                )
            lone = _SURROGATE.search(value)
            if lone:
                raise InputError(
                    f"expected {column} of {where} as Unicode text, got half a surrogate pair at "
                    f"character {lone.start()}; remove it"
                )
        return values

    def label(self, value: object, position: int = 0) -> int:
        """The class number of a label given as a number or a class name.

        Raises:
            InputError: the label is not one of the task's.
        """
        if isinstance(value, str):
            if value in self.labels:
                return self.labels.index(value)
            if value.strip().isdecimal():
                value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.labels):
            return value
        raise InputError(
            f"expected a label of {self.name} (0 to {len(self.labels) - 1}, or "
            f"{', '.join(self.labels)}) in row {position}, got {value!r}"
        )

    def every(self, texts: Iterable[str | Sequence[str] | Mapping[str, str]]) -> list[Fields]:
        """Each text of a list as ``Fields``, see :meth:`fields`.

        Raises:
            InputError: a text is not as it should be, or ``texts`` is one text and no list.
        """
        if isinstance(texts, str | bytes | Mapping):
            raise InputError(
                f"expected a list of texts, got one {type(texts).__name__}; put it into a list"
            )
        return [self.fields(text, f"text {position}") for position, text in enumerate(texts)]

    def render(self, fields: Fields) -> str:
        """The prompt for one example. Braces inside the texts stay as they are."""
        values = dict(zip(self.columns, fields, strict=True))
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self._prompt)

    def starts(self, fields: Fields) -> tuple[int, ...]:
        """Where each column's text begins in the rendered prompt, in characters."""
        lengths = {name: len(text) for name, text in zip(self.columns, fields, strict=True)}
        found, shift = {}, 0
        for match in _PLACEHOLDER.finditer(self._prompt):
            found[match[1]] = match.start() + shift
            shift += lengths[match[1]] - len(match[0])
        return tuple(found[name] for name in self.columns)

    def to_dict(self) -> dict[str, Any]:
        """The definition as JSON values, without where its data is."""
        values = dataclasses.asdict(self)
        del values["splits"], values["data_dir"]
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    @property
    def fingerprint(self) -> str:
        """A hash of what texts are asked and answered with: the same texts behind another template
        or with other label words are another measurement."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], data_dir: str | Path | None = None) -> Task:
        """The inverse of :meth:`to_dict`; a built-in name brings its splits along.

        Raises:
            ConfigError: an unknown key, a missing one or a value of the wrong type.
        """
        values = dict(values)
        known = [f.name for f in dataclasses.fields(cls) if f.name != "data_dir"]
        for key in values:
            if key not in known:
                raise unknown_name("key of a task", key, known)
        missing = {"name", "columns", "labels", "label_words", "template"} - set(values)
        if missing:
            raise ConfigError(f"expected a task with {sorted(missing)}, got only {sorted(values)}")
        if "splits" not in values and values["name"] in list(TASKS):
            values["splits"] = TASKS[values["name"]].splits
        values["data_dir"] = Path(data_dir) if data_dir is not None else None
        return build_config(cls, values, "a task")


def _with_virtual_tokens(template: str) -> str:
    return _VIRTUAL_TOKENS.sub(lambda match: VIRTUAL * int(match[1]), template)


def _csv_splits(name: str) -> dict[str, str]:
    return {split: f"{name}/{split}.csv" for split in SPLITS}


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="sst2",
            columns=("text",),
            labels=("negative", "positive"),
            label_words=(" negative", " positive"),
            template="{text} is this review negative or positive ?",
            splits=_csv_splits("sst2"),
        ),
        Task(
            name="ag_news",
            columns=("text",),
            labels=("World", "Sports", "Business", "Sci/Tech"),
            label_words=(" world", " sports", " business", " technology"),
            template="{text} is this news about world, sports, business or technology ?",
            splits=_csv_splits("ag_news"),
        ),
        Task(
            name="snli",
            columns=("premise", "hypothesis"),
            labels=("entailment", "neutral", "contradiction"),
            label_words=(" yes", " maybe", " no"),
            template="{premise} question: {hypothesis} is that yes, maybe or no ?",
            splits=_csv_splits("snli"),
        ),
    )
}


def load_task(name: str, data_dir: str | Path | None = None) -> Task:
    """A built-in task by name, or an own one from a TOML file.

    Args:
        name: ``sst2``, ``ag_news``, ``snli``, or a path ending in ``.toml`` whose keys are the
            attributes of :class:`Task`; its data paths are relative to the file's folder or, what
            is not there, to ``data_dir``.
        data_dir: where the data is; ``ROBUST_PREFIX_DATA`` serves where it is not given.

    Raises:
        ConfigError: the name is unknown or the file does not define a task.
    """
    if data_dir is None:
        data_dir = os.environ.get("ROBUST_PREFIX_DATA") or None
    if not name.endswith(".toml"):
        if name not in TASKS:
            raise unknown_name("task, or a path ending in .toml", name, TASKS)
        return dataclasses.replace(TASKS[name], data_dir=Path(data_dir) if data_dir else None)
    path = Path(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"expected a task file at {path}, got nothing there") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"expected TOML in {path}, got {error}") from None
    found = Task.from_dict(values, data_dir=data_dir or path.parent)
    return dataclasses.replace(found, splits=_beside(path.parent.resolve(), found.splits))


def _beside(
    folder: Path, splits: Mapping[str, str | tuple[str, ...]]
) -> dict[str, str | tuple[str, ...]]:
    """Splits with the whole paths of what is in ``folder``, which a run keeps."""

    def whole(source: str) -> str:
        here = folder / source
        return str(here) if not source.startswith("hub:") and here.is_file() else source

    return {
        split: whole(found) if isinstance(found, str) else tuple(map(whole, found))
        for split, found in splits.items()
    }
