"""``robust-prefix fit-word-scores``: what a run's words say by themselves."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from robust_prefix.cli.common import (
    DataDirOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    RunArgument,
    command,
)
from robust_prefix.cli.output import print_json
from robust_prefix.configs import WordScoresConfig

if TYPE_CHECKING:
    from robust_prefix.runs import Run

DEFAULT = WordScoresConfig()


@command
def fit(
    run: RunArgument,
    limit: Annotated[
        float, typer.Option(help="How far ahead the classifier can put a class, in its logits.")
    ] = DEFAULT.limit,
    robust_weight: Annotated[
        float, typer.Option(help="Share of the worst case over the word lists in the loss.")
    ] = DEFAULT.robust_weight,
    pessimism: Annotated[
        float,
        typer.Option(help="In the worst case the classifier is this share of the limit wrong."),
    ] = DEFAULT.pessimism,
    largest: Annotated[float, typer.Option(help="Bound of one word's score.")] = DEFAULT.largest,
    block: Annotated[
        int,
        typer.Option(help="Neighbouring words whose say is bounded together; 0 bounds none."),
    ] = DEFAULT.block,
    block_limit: Annotated[
        float, typer.Option(help="How far ahead a block can put a class.")
    ] = DEFAULT.block_limit,
    sources: Annotated[
        str,
        typer.Option(help="Word lists, with commas: wordnet, counterfitted-neighbors."),
    ] = "wordnet,counterfitted-neighbors",
    data_dir: DataDirOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Fit scores of words that hold under substitution, for the defence word-scores."""
    from robust_prefix.backbones import load_backbone
    from robust_prefix.cli.lexical import substitutes_from
    from robust_prefix.fitting import fit_word_scores
    from robust_prefix.runs import Run, run_folder
    from robust_prefix.specs import build_config

    settings = {
        "limit": limit,
        "robust_weight": robust_weight,
        "pessimism": pessimism,
        "largest": largest,
        "block": block,
        "block_limit": block_limit,
    }
    config = build_config(WordScoresConfig, settings, "fit-word-scores")
    loaded = Run.load(run, data_dir)
    names = [name.strip() for name in sources.split(",")]
    substitutes = substitutes_from(data_dir, names)
    backbone = load_backbone(loaded.prefix.base_model, device=device.value, dtype=dtype.value)
    found = fit_word_scores(backbone, loaded.prefix, loaded.task, substitutes, config=config)
    found = dataclasses.replace(found, config={**found.config, "sources": names})
    fitted = dataclasses.replace(loaded, words=found)
    dataclasses.replace(fitted, defense=_renewed(fitted)).save(run_folder(run))
    shown = f"{run}: scores of {len(found.words):,} words"
    if "dev_clean" in found.config:
        shown += (
            f"; of {found.config['dev_examples']} dev texts {found.config['dev_clean']:.1%} are "
            f"right, {found.config['dev_words']:.1%} by the words alone, "
            f"{found.config['dev_guaranteed']:.1%} whatever stands for the words"
        )
    Console(stderr=True).print(shown, highlight=False, soft_wrap=True)
    if json:
        print_json({"run": run, "words": len(found.words), **found.config})


def _renewed(run: Run) -> str:
    """The run's default defence; where word scores are part of it, these that the run now has."""
    from robust_prefix.defenses import WordScoresDefense, build_defense
    from robust_prefix.specs import Spec, parse_composition

    parts = parse_composition(run.defense)
    if all(part.name != WordScoresDefense.name for part in parts):
        return run.defense
    name = WordScoresDefense.name
    anew = (str(Spec(name) if part.name == name else part) for part in parts)
    return build_defense("+".join(anew), run.fitted).spec
