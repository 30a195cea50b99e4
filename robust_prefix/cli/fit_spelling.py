"""``robust-prefix fit-spelling``: which words a run's task is written in."""

from __future__ import annotations

from rich.console import Console

from robust_prefix.cli.common import DataDirOption, JsonOption, RunArgument, command
from robust_prefix.cli.output import print_json


@command
def fit(run: RunArgument, data_dir: DataDirOption = None, json: JsonOption = False) -> None:
    """Count the words of a run's training texts, so that normalize corrects to what they say."""
    from robust_prefix.cli.lexical import renewed
    from robust_prefix.data import load_split, rows_as_fields
    from robust_prefix.defenses import Normalize
    from robust_prefix.errors import InputError
    from robust_prefix.runs import Run
    from robust_prefix.vocabulary import Vocabulary

    loaded = Run.load_own(run, data_dir)
    texts = rows_as_fields(loaded.task, load_split(loaded.task, "train"))
    vocabulary = Vocabulary.of(texts, examples=len(texts))
    if not vocabulary.counts:
        raise InputError(
            f"expected words in the training texts of {loaded.task.name!r}, got none in "
            f"{len(texts)}; see its column {loaded.task.columns[0]!r}"
        )
    Run.change(run, lambda now: renewed(now, Normalize.name), vocabulary=vocabulary)
    Console(stderr=True).print(
        f"{run}: {len(vocabulary.counts):,} words of {len(texts):,} training texts"
    )
    if json:
        print_json({"run": run, "words": len(vocabulary.counts), **dict(vocabulary.config)})
