"""Training a prefix on a task with the language model frozen, on ``transformers.Trainer``."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import Sampler

from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import PrefixTuningConfig, TrainingConfig
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.errors import ConfigError, StorageError
from robust_prefix.files import read_json, write_json
from robust_prefix.objectives import PrefixObjective, Substitutes, build_adversary
from robust_prefix.prefixes import Prefix
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.prefix_tuning import build_parameters, initial_prefix
from robust_prefix.progress import Advance, progress
from robust_prefix.tasks import Task

if TYPE_CHECKING:
    from datasets import Dataset


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
    backbone: CausalBackbone,
    task: Task,
    *,
    prefix: PrefixTuningConfig | None = None,
    training: TrainingConfig | None = None,
    start: Prefix | None = None,
    substitutes: Substitutes | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Prefix:
    """Train a prefix on the task's train split; the best state on its dev split is returned.

    Args:
        prefix: settings of the prefix.
        training: settings of the optimisation, the adversary among them.
        start: a trained prefix to go on from, in place of ``prefix.init``.
        substitutes: what may stand for a word, for an adversary that substitutes synonyms; see
            ``attacks.lexicon``.
        seed: of the start, where it is random, and of the order of the data.
        out: a folder for checkpoints, from which a killed run continues to the same result, and
            for the loss curve ``training.json``; without it nothing is written.

    Returns:
        The prefix; its ``config`` holds the settings and the dev accuracy.

    Raises:
        ArtifactError: ``start`` belongs to another base model.
        ConfigError: a label word is several tokens, the adversary is unknown, ``start`` has
            another length than ``prefix`` asks for, or ``out`` holds checkpoints of other settings.
        InputError: the data does not fit the task.
    """
    from transformers import set_seed

    prefix = prefix or PrefixTuningConfig()
    training = training or TrainingConfig()
    set_seed(seed)
    prompter = Prompter(backbone, task)
    train_rows = load_split(task, "train")
    if training.max_examples:
        train_rows = train_rows.select(range(min(training.max_examples, len(train_rows))))
    dev_rows = load_split(task, "dev")
    settings = {
        "method": "prefix-tuning",
        "prefix": dataclasses.asdict(prefix),
        "training": dataclasses.asdict(training),
        "seed": seed,
        "task": task.to_dict(),
        "train_examples": len(train_rows),
        "dtype": str(backbone.dtype).removeprefix("torch."),
    }
    if start is not None:
        settings["start"] = start.fingerprint
    objective = PrefixObjective(
        prompter,
        build_parameters(_start(backbone, task, prefix, start), prefix),
        build_adversary(training.adversary, prompter, substitutes),
        rows_as_fields(task, train_rows),
        training.adversarial_weight,
        seed,
    )
    folder = Path(out) if out is not None else None
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            history = _run_trainer(
                objective, prompter, train_rows, dev_rows, training, seed, Path(scratch)
            )
    else:
        checkpoints = folder / "checkpoints"
        _check_same_settings(checkpoints, {**settings, "base": backbone.fingerprint})
        history = _run_trainer(
            objective, prompter, train_rows, dev_rows, training, seed, checkpoints
        )
        write_json(folder / "training.json", {"settings": settings, "history": history})
        shutil.rmtree(checkpoints)
    accuracies = [row["dev_accuracy"] for row in history if "dev_accuracy" in row]
    with torch.no_grad():
        tensor = objective.prefix().float().cpu()
    return Prefix(
        tensor=tensor,
        base_model=backbone.name,
        base_fingerprint=backbone.fingerprint,
        config={**settings, "dev_accuracy": max(accuracies), "dev_examples": len(dev_rows)},
    )


def _start(
    backbone: CausalBackbone, task: Task, config: PrefixTuningConfig, start: Prefix | None
) -> Tensor:
    """Where training starts: float32 ``(layers, 2, kv_heads, length, head_dim)``."""
    if start is None:
        return initial_prefix(backbone, task, config)
    start.check_base(backbone)
    if start.length != config.length:
        raise ConfigError(
            f"expected a prefix of length {config.length} to start from, got {start.length}; "
            "ask for that length"
        )
    return start.tensor.clone()


def _check_same_settings(checkpoints: Path, settings: dict[str, Any]) -> None:
    """Checkpoints continue a run only if everything that decides its result is the same."""
    path = checkpoints / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    before = read_json(path)
    for key, value in json.loads(json.dumps(settings)).items():
        if before.get(key) != value:
            raise ConfigError(
                f"expected the settings of the run begun in {checkpoints.parent} "
                f"({key}={before.get(key)}), got {key}={value}; "
                f"delete {checkpoints} to start anew or choose another --out"
            )


def _last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; the trainer writes ``trainer_state.json`` last."""
    complete = sorted(
        (int(path.name.partition("-")[2]), str(path))
        for path in folder.glob("checkpoint-*")
        if (path / "trainer_state.json").is_file()
    )
    return complete[-1][1] if complete else None


def _run_trainer(
    objective: PrefixObjective,
    prompter: Prompter,
    train_rows: Dataset,
    dev_rows: Dataset,
    config: TrainingConfig,
    seed: int,
    folder: Path,
) -> list[dict[str, float]]:
    """Train ``objective`` in place and load its best state; return the loss and dev curve."""
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

    train = _encode(prompter, train_rows)
    dev = _encode(prompter, dev_rows)
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    evaluate_every = max(1, steps_per_epoch // config.evaluations_per_epoch)
    sampler = LengthGroupedBatches([len(row["ids"]) for row in train], config.batch_size, seed)

    class SeededTrainer(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
            return sampler

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=2 * config.batch_size,
        eval_strategy="steps",
        eval_steps=evaluate_every,
        save_strategy="steps",
        save_steps=evaluate_every,
        save_total_limit=2,
        logging_steps=min(20, evaluate_every),
        load_best_model_at_end=True,
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
    return [_history_row(row) for row in trainer.state.log_history if "step" in row]


@contextmanager
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


def _collate(backbone: CausalBackbone, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = backbone.pad([row["ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows], device=backbone.device)
    index = torch.tensor([row["index"] for row in rows])
    return {"ids": batch.ids, "answer": batch.answer, "labels": labels, "index": index}
