"""Training a prefix on a task with the language model frozen, on ``transformers.Trainer``.

A method whose result is words is searched by :mod:`robust_prefix.search` instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import Sampler

from robust_prefix.backbones import Backbone
from robust_prefix.configs import MethodConfig, PrefixTuningConfig, TrainingConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.errors import ConfigError, StorageError
from robust_prefix.files import read_json, write_json
from robust_prefix.objectives import PrefixObjective, Substitutes, build_adversary
from robust_prefix.prefixes import PREFIX_FILE, Prefix, method_of
from robust_prefix.prefixes.hard_prompt import HardPrompt
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.searched import Searched
from robust_prefix.progress import Advance, progress
from robust_prefix.search import check_searchable, search_words
from robust_prefix.tasks import Fields, Task

if TYPE_CHECKING:
    from datasets import Dataset


class TextReader(Protocol):
    """What rewrites texts before the model reads them; a ``TextDefense`` is one."""

    @property
    def spec(self) -> str: ...

    def read(self, fields: Fields) -> Fields:
        """The text that the model gets."""
        ...


class LengthGroupedBatches(Sampler[int]):
    """Batches of like length in a random order that depends on the seed and the epoch alone.

    The trainer's own sampler draws from the global random state, so a run resumed inside an epoch
    would see other batches than the run that was killed.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        from transformers.trainer_pt_utils import get_length_grouped_indices

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)


def train_prefix(
    backbone: Backbone,
    task: Task,
    *,
    prefix: MethodConfig | None = None,
    training: TrainingConfig | None = None,
    start: Prefix | None = None,
    substitutes: Substitutes | None = None,
    reader: TextReader | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Prefix:
    """Train a prefix on the task's train split.

    The state with the best accuracy on the dev split is returned; with an adversary the last one.

    Args:
        prefix: settings of a method, which name it; of prefix-tuning where not given.
        training: settings of the optimisation, the adversary among them.
        start: a trained prefix to go on from, in place of the method's ``init``.
        substitutes: what may stand for a word, for an adversary that substitutes synonyms; see
            ``attacks.lexicon``.
        reader: a defence that rewrites text, such as ``Synonyms``; the prefix is trained and
            measured on what it makes of each text, and so is to be used behind it.
        seed: of the start, where it is random, and of the order of the data.
        out: a folder for checkpoints, from which a killed run continues to the same result, for
            the loss curve ``training.json`` and the prefix; without it nothing is written. A
            training that was finished there with the same settings is not done again.

    Returns:
        The prefix; its ``config`` holds the settings and the dev accuracy.

    Raises:
        ArtifactError: ``start`` belongs to another base model.
        ConfigError: a label word is several tokens, the adversary is unknown, ``prefix`` does not
            fit the model, the task or ``start``, or ``out`` holds checkpoints of other settings.
        InputError: the data does not fit the task.
    """
    from transformers import set_seed

    method = method_of(prefix or PrefixTuningConfig())
    training = training or TrainingConfig()
    rate = training.learning_rate or method.learning_rate
    training = dataclasses.replace(training, learning_rate=rate)
    if isinstance(method, Searched):
        check_searchable(method, training)
    set_seed(seed)
    prompter = Prompter(backbone, task, head=method.has_head(backbone))
    train_rows = load_split(task, "train")
    if training.max_examples:
        train_rows = train_rows.select(range(min(training.max_examples, len(train_rows))))
    dev_rows = load_split(task, "dev")
    settings = {
        "method": method.name,
        "prefix": dataclasses.asdict(method.config),
        "training": dataclasses.asdict(training),
        "seed": seed,
        "task": task.to_dict(),
        "train_examples": len(train_rows),
        "dtype": str(backbone.dtype).removeprefix("torch."),
    }
    if start is not None:
        settings["start"] = start.fingerprint
    if reader is not None:
        settings["reader"] = reader.spec
        train_rows, dev_rows = (_read(task, rows, reader) for rows in (train_rows, dev_rows))
        substitutes = substitutes and _read_substitutes(substitutes, reader)
    folder = Path(out) if out is not None else None
    if folder is not None and (finished := _finished(folder, settings, backbone)) is not None:
        return finished
    objective = PrefixObjective(
        prompter,
        method.trainable(backbone, task, start),
        build_adversary(training.adversary, prompter, substitutes),
        rows_as_fields(task, train_rows),
        training.adversarial_weight,
        seed,
    )
    train, dev = (_encode(prompter, rows) for rows in (train_rows, dev_rows))
    longest = max(len(row["ids"]) for row in (*train, *dev))
    if method.length(task) + longest > backbone.max_positions:
        raise ConfigError(
            f"expected at most {backbone.max_positions} positions for {backbone.name}, got "
            f"{method.length(task)} virtual tokens and a text of {longest}; lower the length or "
            "the task's max_tokens"
        )
    with contextlib.ExitStack() as stack:
        if folder is None:
            checkpoints = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            checkpoints = folder / "checkpoints"
            _check_same_settings(checkpoints, {**settings, "base": backbone.fingerprint})
        given = (prompter, train, dev, training, seed, checkpoints)
        history = (
            search_words(method, cast(HardPrompt, objective.prefix), *given)
            if isinstance(method, Searched)
            else _run_trainer(objective, rate, *given)
        )
    accuracies = [row["dev_accuracy"] for row in history if "dev_accuracy" in row]
    kept = max(accuracies) if training.adversary == "none" else accuracies[-1]
    found = {
        "dev_accuracy": kept,
        "dev_examples": len(dev_rows),
        "trained_parameters": sum(weight.numel() for weight in objective.parameters()),
        **objective.prefix.notes(),
    }
    with torch.no_grad():
        trained = Prefix.of(objective.prefix(backbone), backbone, {**settings, **found})
    if folder is not None:
        # The checkpoints go last: whatever happens next, the training need not be done again.
        write_json(folder / "training.json", {"settings": settings, "history": history})
        trained.save(folder / PREFIX_FILE)
        shutil.rmtree(checkpoints)
    return trained


def _finished(folder: Path, settings: dict[str, Any], backbone: Backbone) -> Prefix | None:
    """The prefix that a training with the same settings left in ``folder``, if there is one."""
    if not (folder / PREFIX_FILE).is_file() or (folder / "checkpoints").exists():
        return None
    prefix = Prefix.load(folder / PREFIX_FILE)
    same = all(prefix.config.get(key) == value for key, value in _as_json(settings).items())
    return prefix if same and prefix.base_fingerprint == backbone.fingerprint else None


def _read(task: Task, rows: Dataset, reader: TextReader) -> Dataset:
    """The rows as ``reader`` rewrites them."""

    def rewrite(row: dict[str, Any]) -> dict[str, Any]:
        read = reader.read(tuple(row[column] for column in task.columns))
        return {**row, **dict(zip(task.columns, read, strict=True))}

    return type(rows).from_list([rewrite(row) for row in rows], features=rows.features)


def _read_substitutes(substitutes: Substitutes, reader: TextReader) -> Substitutes:
    """What is left of a word's substitutes once ``reader`` has rewritten them."""

    @cache
    def found(word: str) -> tuple[str, ...]:
        read = dict.fromkeys(text for w in substitutes(word) for text in reader.read((w,)))
        return tuple(text for text in read if text != word)

    return found


def _run_trainer(
    objective: PrefixObjective,
    learning_rate: float,
    prompter: Prompter,
    train: list[dict[str, Any]],
    dev: list[dict[str, Any]],
    config: TrainingConfig,
    seed: int,
    folder: Path,
) -> list[dict[str, float]]:
    """Train ``objective`` in place and load its best state; return the loss and dev curve."""
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    evaluate_every = max(1, steps_per_epoch // config.evaluations_per_epoch)
    sampler = LengthGroupedBatches([len(row["ids"]) for row in train], config.batch_size, seed)

    class SeededTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
            return sampler

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        learning_rate=learning_rate,
        weight_decay=config.weight_decay,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=2 * config.batch_size,
        eval_strategy="steps",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=evaluate_every,
        save_total_limit=2,
        logging_steps=min(20, evaluate_every),
        # Clean dev accuracy would choose the state that has seen least of the adversary.
        load_best_model_at_end=config.adversary == "none",
        metric_for_best_model="accuracy",
        greater_is_better=True,
        use_cpu=prompter.backbone.device.type == "cpu",
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        seed=seed,
        dataloader_pin_memory=False,
    )
    trainer = SeededTrainer(
        model=objective,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=lambda rows: _collate(prompter.backbone, rows),
        compute_metrics=lambda output: {
            "accuracy": float((output.predictions.argmax(-1) == output.label_ids).mean())
        },
    )
    trainer.remove_callback(PrinterCallback)
    if config.patience:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    resume_from = _last_checkpoint(folder)
    total = math.ceil(steps_per_epoch * config.epochs)
    done = int(resume_from.rpartition("-")[2]) if resume_from else 0
    with progress("training", total, done) as advance:
        trainer.add_callback(_callback(sampler, steps_per_epoch, advance))
        with _storage_errors(folder):
            trainer.train(resume_from_checkpoint=resume_from)
            if not any("eval_accuracy" in row for row in trainer.state.log_history):
                trainer.evaluate()  # shorter than the time to the first evaluation
    return [_history_row(row) for row in trainer.state.log_history if "step" in row]


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """Say what to do about a checkpoint that cannot be written, whichever library reports it."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch.save has no error of its own, only the name of its file
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        raise StorageError(
            f"expected to write a checkpoint into {folder}, got {str(error)!r}; free some space, "
            "the same call goes on from the last whole checkpoint"
        ) from error


def _callback(sampler: LengthGroupedBatches, steps_per_epoch: int, advance: Advance) -> Any:
    from transformers import TrainerCallback

    class Follow(TrainerCallback):
        """Tells the sampler its epoch and the progress bar its step."""

        note = ""

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            sampler.epoch = state.global_step // steps_per_epoch

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            advance(state.global_step, self.note)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            values = _history_row({**(logs or {}), "step": state.global_step})
            shown = [f"{k} {v:.3f}" for k, v in values.items() if k not in ("step", "epoch")]
            self.note = " ".join(shown)

    return Follow()


def _history_row(row: dict[str, float]) -> dict[str, float]:
    names = {
        "step": "step",
        "epoch": "epoch",
        "loss": "loss",
        "eval_loss": "dev_loss",
        "eval_accuracy": "dev_accuracy",
    }
    return {new: row[old] for old, new in names.items() if old in row}


def _encode(prompter: Prompter, rows: Dataset) -> list[dict[str, Any]]:
    encoded = prompter.encode(rows_as_fields(prompter.task, rows))
    return [
        {"ids": ids, "labels": label, "index": index}
        for index, (ids, label) in enumerate(zip(encoded.rows, rows["label"], strict=True))
    ]


def _collate(backbone: Backbone, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = backbone.pad([row["ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows], device=backbone.device)
    index = torch.tensor([row["index"] for row in rows])
    found = {"ids": batch.ids, "answer": batch.answer, "labels": labels, "index": index}
    return found if batch.lengths is None else {**found, "lengths": batch.lengths}


def _check_same_settings(checkpoints: Path, settings: dict[str, Any]) -> None:
    """Checkpoints continue a run only if everything that decides its result is the same."""
    path = checkpoints / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    before = read_json(path)
    for key, value in _as_json(settings).items():
        if before.get(key) != value:
            raise ConfigError(
                f"expected the settings of the run begun in {checkpoints.parent} "
                f"({key}={before.get(key)}), got {key}={value}; "
                f"delete {checkpoints} to start anew or choose another --out"
            )


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are once written and read: lists for tuples."""
    values: dict[str, Any] = json.loads(json.dumps(settings))
    return values


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; the trainer writes ``trainer_state.json`` last."""
    complete = sorted(
        (int(path.name.partition("-")[2]), str(path))
        for path in folder.glob("checkpoint-*")
        if (path / "trainer_state.json").is_file()
    )
    return complete[-1][1] if complete else None
