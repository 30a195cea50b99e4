"""``robust-prefix train``: a prefix from a task's data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from robust_prefix.cli.common import (
    DataDirOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    MovingAverageOption,
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json
from robust_prefix.configs import TrainingConfig

if TYPE_CHECKING:
    from robust_prefix.defenses import Defense, TextDefense, WordScoresDefense
    from robust_prefix.runs import Run
    from robust_prefix.tasks import Task
    from robust_prefix.word_scores import WordScores

TRAINING = TrainingConfig()


@command
def train(
    out: Annotated[Path, typer.Option(help="Run directory to write.")],
    task: Annotated[str, typer.Option(help="Built-in task, or a path ending in .toml.")] = "sst2",
    model: Annotated[
        str, typer.Option(help="smollm2-135m, minilm-l6, a local directory or a Hub id.")
    ] = "smollm2-135m",
    method: Annotated[
        str | None,
        typer.Option(
            help="What is learned, with settings: prompt-tuning(length=20, init=labels); see "
            "robust-prefix list methods. prefix-tuning, or that of --start and its settings."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Run directory or zoo:NAME whose prefix to go on from.")
    ] = None,
    adversary: Annotated[
        str,
        typer.Option(
            help="Perturbs the training texts: none, pgd, freelb, substitution, triggers, masking; "
            "settings in parentheses, several with + take turns."
        ),
    ] = TRAINING.adversary,
    adversarial_weight: Annotated[
        float, typer.Option(help="Share of the perturbed texts in the loss.")
    ] = TRAINING.adversarial_weight,
    defense: Annotated[
        str,
        typer.Option(
            help="Train behind a defence: on what normalize, synonyms or both with + make of the "
            "text, masked-vote after them or not; or word-scores, those of --start, with normalize "
            "before and synonyms behind them or not. The run's default afterwards."
        ),
    ] = "none",
    length: Annotated[
        str | None,
        typer.Option(
            help="Virtual tokens, or auto: chosen on dev by short trainings. The method's own "
            "default, or those of --start."
        ),
    ] = None,
    reparameterization: Annotated[
        str | None,
        typer.Option(help="none, or mlp: an MLP yields the prefix and is dropped afterwards."),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="What the method starts from: text (real tokens) or others.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = TRAINING.epochs,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Of AdamW; the method's own where not given, see list methods."),
    ] = TRAINING.learning_rate,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = TRAINING.batch_size,
    moving_average: MovingAverageOption = TRAINING.moving_average,
    patience: Annotated[
        int, typer.Option(help="Evaluations without progress before it stops; 0: never.")
    ] = TRAINING.patience,
    max_examples: Annotated[
        int, typer.Option(help="Train on the first so many rows; 0: all.")
    ] = TRAINING.max_examples,
    more_data: Annotated[
        list[Path] | None,
        typer.Option(
            help="File with rows to train on behind those of the task, such as generated ones; may "
            "be given several times. What is fitted to the run later is fitted on them, too."
        ),
    ] = None,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Train a prefix with the language model frozen. A killed run continues where it stopped."""
    from robust_prefix.backbones import load_backbone
    from robust_prefix.cli.lexical import clusters_for, substitutes_from
    from robust_prefix.data import load_split
    from robust_prefix.defenses import Fitted, TextDefense, WordScoresDefense, build_defense
    from robust_prefix.errors import ConfigError
    from robust_prefix.evaluation.accuracy import describe, measured_run
    from robust_prefix.fitting import cross_fit_words
    from robust_prefix.lengths import choose_length
    from robust_prefix.objectives import needs_substitutes
    from robust_prefix.prefixes import build_method, method_to_go_on
    from robust_prefix.runs import Run
    from robust_prefix.specs import build_config, parse_composition
    from robust_prefix.tasks import load_task
    from robust_prefix.training import train_prefix

    begun_run = Run.load(start) if start is not None else None
    begun = begun_run.prefix if begun_run is not None else None
    chosen = load_task(task, data_dir).with_more(more_data or ())
    search = length == "auto"
    if search and begun is not None:
        raise ConfigError("expected --length auto or --start, got both; a prefix has its length")
    beside = {
        "length": None if search else length,
        "reparameterization": reparameterization,
        "init": init,
    }
    given = {name: value for name, value in beside.items() if value is not None}
    chosen_method = (
        build_method(method or "prefix-tuning", **given)
        if begun is None
        else method_to_go_on(begun, chosen, method, **given)
    )
    training_config = build_config(
        TrainingConfig,
        {
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "moving_average": moving_average,
            "patience": patience,
            "max_examples": max_examples,
            "adversary": adversary,
            "adversarial_weight": adversarial_weight,
        },
        "train",
    )
    # Clusters and vocabulary are the task's: a prefix of another one goes on without them.
    kept = Fitted()
    if begun_run is not None and begun_run.task.name == chosen.name:
        kept = begun_run.fitted
    clusters = kept.synonyms
    if clusters is None and any(part.name == "synonyms" for part in parse_composition(defense)):
        clusters = clusters_for(chosen, data_dir)
    words = None
    if any(part.name == WordScoresDefense.name for part in parse_composition(defense)):
        words = _words_to_go_on(begun_run, chosen)
    fitted = Fitted(synonyms=clusters, words=words, vocabulary=kept.vocabulary)
    behind = build_defense(defense, fitted)
    beside_words = _checked(behind, defense)
    substitutes = substitutes_from(data_dir) if needs_substitutes(adversary) else None
    for split in chosen.splits:  # a bad row in the test data is to be known before training
        load_split(chosen, split)
    backbone = load_backbone(model, device=device.value, dtype=dtype.value)
    common: dict[str, Any] = {
        "training": training_config,
        "substitutes": substitutes,
        "reader": behind if isinstance(behind, TextDefense) else None,
        "seed": seed,
        "out": out,
    }
    config = chosen_method.config
    if search:
        found = choose_length(backbone, chosen, prefix=config, **common).chosen
        config = dataclasses.replace(config, length=found)
    crossed = behind_words = None
    if words is not None and begun is not None and beside_words is not None:
        lists = substitutes_from(data_dir, words.config.get("sources"))
        behind_words = beside_words.behind
        _check_behind(words, behind_words)
        crossed = cross_fit_words(backbone, begun, chosen, words, lists, behind=behind_words)
        crossed = dataclasses.replace(crossed, limit=beside_words.limit)
        if (block_limit := beside_words.config.block_limit) is not None:
            crossed = crossed.in_blocks_of(block_limit)
    prefix = train_prefix(
        backbone,
        chosen,
        prefix=config,
        start=begun,
        words=crossed,
        behind_words=behind_words,
        **common,
    )
    if words is not None:  # it was trained beside them, and so they are this prefix's
        words = words.beside(prefix.fingerprint)
        fitted = dataclasses.replace(fitted, words=words)
        behind = build_defense(behind.spec, fitted)
    run = measured_run(backbone, chosen, prefix, defense=behind, kept=fitted)
    dataclasses.replace(run, words=words).save(out)
    clean, parameters = run.measurements["clean_accuracy"], run.measurements["parameters"]
    Console(stderr=True).print(
        f"{out}: accuracy {describe(clean)} on {clean['split']}, "
        f"{parameters['trainable']:,} trained parameters "
        f"({parameters['percent']:.3f}% of the model)"
    )
    if "written" in prefix.config:
        written = f"prompt: {prefix.config['written']!r}"
        Console(stderr=True).print(written, markup=False, highlight=False, soft_wrap=True)
    if json:
        print_json({"out": str(out), **run.measurements, "settings": dict(prefix.config)})


def _words_to_go_on(start: Run | None, task: Task) -> WordScores:
    """The word scores of the run that training goes on from."""
    from robust_prefix.errors import ConfigError

    if start is None or start.words is None:
        raise ConfigError(
            "expected --start with a run that has word scores to train beside them, got "
            f"{'none' if start is None else 'one without'}; run robust-prefix fit-word-scores on it"
        )
    if (start.task.name, start.task.labels) != (task.name, task.labels):
        raise ConfigError(
            f"expected word scores of the task {task.name}, got some of {start.task.name}; run "
            "robust-prefix fit-word-scores on a run of this task"
        )
    return start.words


def _checked(behind: Defense[Any], given: str) -> WordScoresDefense | None:
    """Refuse defences that a prefix cannot be trained behind; the word scores, if any."""
    from robust_prefix.defenses import (
        MaskedVote,
        NoDefense,
        Synonyms,
        TextDefense,
        WordScoresDefense,
        layers,
    )
    from robust_prefix.errors import ConfigError

    parts = list(layers(behind))
    if not all(
        isinstance(part, TextDefense | MaskedVote | NoDefense | WordScoresDefense) for part in parts
    ):
        raise ConfigError(
            "expected defences that rewrite text (normalize, synonyms), word-scores or "
            f"masked-vote, got {given!r}; others do not change what a prefix is trained on"
        )
    if any(isinstance(part, Synonyms) and part.config.shuffled is not None for part in parts):
        raise ConfigError(
            f"expected synonyms as they were fitted to train behind, got {given!r}; leave out "
            "shuffled="
        )
    found = [part for part in parts if isinstance(part, WordScoresDefense)]
    if not found:
        return None
    [words] = found
    if any(isinstance(part, MaskedVote) for part in parts):
        raise ConfigError(
            "expected word-scores with normalize, synonyms or both to train a prefix on, got "
            f"{given!r}; leave masked-vote out"
        )
    if words.config.shuffled is not None or words.config.scale is not None:
        raise ConfigError(
            f"expected word scores as they were fitted to train beside, got {given!r}; leave out "
            "shuffled= and scale="
        )
    return words


def _check_behind(words: WordScores, behind: TextDefense[Any] | None) -> None:
    """The scores of the whole train split are fitted as those of its folds are going to be."""
    from robust_prefix.errors import ConfigError

    wanted = behind.spec if behind is not None else "none"
    if (found := words.config.get("behind", "none")) != wanted:
        raise ConfigError(
            f"expected word scores that were fitted with {wanted} between them and the model, got "
            f"some with {found}; run robust-prefix fit-word-scores --behind "
            f"{wanted.split('(')[0]} on the run"
        )
