"""``robust-prefix fit-synonyms``: which words a run reads as one word."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from robust_prefix.cli.common import DataDirOption, JsonOption, RunArgument, command
from robust_prefix.cli.output import print_json


@command
def fit(
    run: RunArgument,
    sources: Annotated[
        str,
        typer.Option(help="Word lists, with commas: wordnet, counterfitted-neighbors."),
    ] = "wordnet,counterfitted-neighbors",
    rare: Annotated[
        int,
        typer.Option(
            min=0,
            help="Read only words that the training texts have less often than this, each as its "
            "most frequent synonym; 0 clusters all words.",
        ),
    ] = 0,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Cluster the words of a run's task by synonymy, for the defence synonyms."""
    from robust_prefix.cli.lexical import clusters_for, renewed
    from robust_prefix.defenses import Synonyms
    from robust_prefix.runs import Run

    loaded = Run.load_own(run, data_dir)
    names = [name.strip() for name in sources.split(",")]
    clusters = clusters_for(loaded.task, data_dir, names, rare)
    Run.change(run, lambda now: renewed(now, Synonyms.name), synonyms=clusters)
    Console(stderr=True).print(
        f"{run}: {len(clusters.representative):,} words are read as one of "
        f"{len(set(clusters.representative.values())):,} others"
    )
    if json:
        print_json({"run": run, "words": len(clusters.representative), **dict(clusters.config)})
