"""Generation tasks: source texts, the template they are put into, and what is to be said then."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_prefix.data import Row, load_split, read_rows, rows_as_fields
from robust_prefix.errors import ConfigError, InputError, ResourceError, unknown_name
from robust_prefix.generation.trails import trails
from robust_prefix.specs import build_config
from robust_prefix.tasks import SPLITS, TASKS, Fields, Task, load_task

_BUILT_IN: dict[str, Callable[[str], list[Row]]] = {"trails": trails}
_MADE_HERE = "built-in:"


@dataclass(frozen=True)
class Pair:
    """What is given and one text that may be said about it."""

    source: str
    target: str


@dataclass(frozen=True)
class GenerationTask:
    """Texts to write about sources: sentences about a table, a summary of a text.

    Attributes:
        name: short name.
        template: the prompt with ``{source}`` once; it must not end in it, so that where the
            answer begins looks the same for every source.
        source_column, target_column: of the data. Rows with the same source are several texts
            that may be said about it.
        max_tokens: of a prompt; a longer one is refused, for a part of a table is another table.
        splits: where each of train, dev and test is: a CSV, JSONL or Parquet path relative to
            ``data_dir``, or ``built-in:NAME``.
        data_dir: the folder relative paths start from.
        classes_of: the definition of a classification task, where what is to be written are its
            texts behind their classes, see :func:`class_task`; the splits are that task's then.

    Raises:
        ConfigError: the template has no source, or ends in it.
    """

    name: str
    template: str = "{source} ->"
    source_column: str = "source"
    target_column: str = "target"
    max_tokens: int = 256
    splits: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    data_dir: Path | None = None
    classes_of: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.template.count("{source}") != 1 or self.template.endswith("{source}"):
            raise ConfigError(
                f"expected {{source}} once and something behind it in the template of task "
                f"{self.name!r}, got {self.template!r}; end it like '{{source}} ->'"
            )

    def render(self, source: str) -> str:
        """The prompt for one source. Braces inside it stay as they are."""
        return source.join(self.template.split("{source}"))

    def check(self, text: object, what: str) -> str:
        """``text``, where it is one.

        Args:
            what: how to call it in the message.

        Raises:
            InputError: it is no text, empty, or has characters that no model can read.
        """
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise InputError(f"expected words without NUL bytes as {what}, got {text!r:.60}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"expected {what} as Unicode text, got half a surrogate pair; remove it"
            ) from None
        return text

    def to_dict(self) -> dict[str, Any]:
        """The definition as JSON values, without where its data is."""
        values = dataclasses.asdict(self)
        del values["splits"], values["data_dir"]
        return values

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], data_dir: str | Path | None = None
    ) -> GenerationTask:
        """The inverse of :meth:`to_dict`; ``splits`` may come along.

        Raises:
            ConfigError: an unknown key, a missing one or a value of the wrong type.
        """
        known = [entry.name for entry in dataclasses.fields(cls) if entry.name != "data_dir"]
        for key in values:
            if key not in known:
                raise unknown_name("key of a generation task", key, known)
        if "name" not in values:
            raise ConfigError(f"expected a generation task with a name, got {sorted(values)}")
        place = Path(data_dir) if data_dir is not None else None
        return build_config(cls, {**values, "data_dir": place}, "a generation task")


def class_task(task: Task, template: str = "{source} :") -> GenerationTask:
    """To write the last column of a task's texts behind the class and the columns before it.

    Args:
        template: of the prompt; what it says of the texts is a help: "A sentence of a {source} film
            review:".
    """
    return GenerationTask(
        f"{task.name}-classes",
        template,
        splits=task.splits,
        data_dir=task.data_dir,
        classes_of=task.to_dict(),
    )


def class_source(label: str, given: Fields) -> str:
    """What a text of that class is written behind; ``given`` are the columns before its own."""
    return " | ".join((label, *given))


GENERATION_TASKS: dict[str, GenerationTask] = {
    name: GenerationTask(name, splits={split: f"{_MADE_HERE}{name}" for split in SPLITS})
    for name in _BUILT_IN
}


def load_generation_task(
    name: str, data_dir: str | Path | None = None, template: str | None = None
) -> GenerationTask:
    """A built-in task by name, or an own one from a TOML file.

    Args:
        name: ``trails``, or a path ending in ``.toml`` whose keys are the attributes of
            :class:`GenerationTask`; its data paths are relative to ``data_dir`` or, without one,
            to the file's folder. Of a classification task, its name or its TOML file, the texts
            are to be written behind their classes.
        data_dir: where the data is; ``ROBUST_PREFIX_DATA`` serves where it is not given.
        template: of the prompt, in place of the task's own.

    Raises:
        ConfigError: the name is unknown or the file does not define a task.
    """
    changes: dict[str, Any] = {} if template is None else {"template": template}
    if not name.endswith(".toml"):
        if name in TASKS:
            return class_task(load_task(name, data_dir), **changes)
        if name not in GENERATION_TASKS:
            known = [*GENERATION_TASKS, *TASKS]
            raise unknown_name("generation task, or a path ending in .toml", name, known)
        return dataclasses.replace(GENERATION_TASKS[name], **changes)
    path = Path(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"expected a task file at {path}, got nothing there") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"expected TOML in {path}, got {error}") from None
    if "labels" in values:
        return class_task(load_task(name, data_dir), **changes)
    data_dir = data_dir or os.environ.get("ROBUST_PREFIX_DATA") or path.parent
    return GenerationTask.from_dict({**values, **changes}, data_dir)


def load_pairs(task: GenerationTask, split: str) -> list[Pair]:
    """One split of a task's data.

    Raises:
        ConfigError: the task has no such split.
        ResourceError: the file is not there.
        InputError: it is no such file, a column is missing, or a text is empty.
    """
    if split not in task.splits:
        raise ConfigError(
            f"expected one of {'/'.join(task.splits) or 'no'} splits in task {task.name!r}, "
            f"got {split!r}; add it under [splits] in the task's TOML file"
        )
    if task.classes_of is not None:
        of = Task.from_dict({**task.classes_of, "splits": task.splits}, task.data_dir)
        found = load_split(of, split)
        return [
            Pair(class_source(of.labels[label], fields[:-1]), fields[-1])
            for fields, label in zip(rows_as_fields(of, found), found["label"], strict=True)
        ]
    source = task.splits[split]
    if not isinstance(source, str):
        raise ConfigError(
            f"expected one path for {split} of the generation task {task.name!r}, got {source!r}"
        )
    if source.startswith(_MADE_HERE):
        rows = _BUILT_IN[source.removeprefix(_MADE_HERE)](split)
    else:
        path = (task.data_dir or Path()) / source
        if not path.is_file():
            raise ResourceError(
                f"expected data for task {task.name!r} at {path}, got no file there; "
                "give --data-dir or set ROBUST_PREFIX_DATA"
            )
        rows = read_rows(path)
    if not rows:
        raise InputError(f"expected at least one row in {source}, got none")
    columns = (task.source_column, task.target_column)
    pairs = []
    for number, row in enumerate(rows):
        missing = [column for column in columns if column not in row]
        if missing:
            raise InputError(
                f"expected the columns {list(columns)} in row {number} of {source}, got "
                f"{list(row)}; rename them, or give the task source_column and target_column"
            )
        texts = [task.check(row[name], f"{name} of row {number} of {source}") for name in columns]
        pairs.append(Pair(*texts))
    return pairs
