"""``robust-prefix fit-word-scores``: what a run's words say by themselves."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, cast

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
    from robust_prefix.defenses import TextDefense
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
    behind: Annotated[
        str | None,
        typer.Option(
            help="A defence that rewrites texts for the model and not for the scores, such as "
            "synonyms in word-scores+synonyms; that of the run's default where not given."
        ),
    ] = None,
    data_dir: DataDirOption = None,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Fit scores of words that hold under substitution, for the defence word-scores."""
    from robust_prefix.backbones import load_backbone
    from robust_prefix.cli.lexical import renewed, substitutes_from
    from robust_prefix.defenses import WordScoresDefense
    from robust_prefix.fitting import fit_word_scores
    from robust_prefix.runs import Run
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
    loaded = Run.load_own(run, data_dir)
    rewriter = _rewriter(loaded, behind)
    names = [name.strip() for name in sources.split(",")]
    substitutes = substitutes_from(data_dir, names)
    backbone = load_backbone(loaded.prefix.base_model, device=device.value, dtype=dtype.value)
    found = fit_word_scores(
        backbone, loaded.prefix, loaded.task, substitutes, config=config, behind=rewriter
    )
    told = {"sources": names, "behind": rewriter.spec if rewriter is not None else "none"}
    found = dataclasses.replace(found, config={**found.config, **told})
    Run.change(run, lambda now: renewed(now, WordScoresDefense.name), words=found)
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


def _rewriter(run: Run, behind: str | None) -> TextDefense[Any] | None:
    """What rewrites texts for the model alone: as given, or as the run's default has it."""
    from robust_prefix.defenses import (
        DEFENSES,
        NoDefense,
        TextDefense,
        WordScoresDefense,
        build_defense,
    )
    from robust_prefix.errors import ConfigError
    from robust_prefix.specs import parse_composition

    if behind is None:
        parts = parse_composition(run.defense)
        places = [n for n, part in enumerate(parts) if part.name == WordScoresDefense.name]
        after = parts[places[0] + 1 :] if places else ()
        if not after or not issubclass(DEFENSES[after[0].name], TextDefense):
            return None
        return cast("TextDefense[Any]", build_defense(str(after[0]), run.fitted))
    built = build_defense(behind, run.fitted)
    if isinstance(built, NoDefense):
        return None
    if (
        isinstance(built, TextDefense)
        and isinstance(built.inner, NoDefense)
        and built.stage > WordScoresDefense.stage
    ):
        return built
    raise ConfigError(
        "expected --behind with a defence that rewrites text behind word-scores (synonyms), got "
        f"{behind!r}"
    )
