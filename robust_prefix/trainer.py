"""What every training has in common, on ``transformers.Trainer``: an order of batches of its own,
checkpoints from which a killed training goes on, and a result that need not be made twice."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler

from robust_prefix.backbones import Backbone
from robust_prefix.configs import TrainingConfig
from robust_prefix.errors import ConfigError, RobustPrefixError, StorageError
from robust_prefix.files import read_json, write_json
from robust_prefix.moving_average import update_averages
from robust_prefix.prefixes import PREFIX_FILE, Prefix
from robust_prefix.progress import Advance, progress


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


def finished(folder: Path, settings: dict[str, Any], backbone: Backbone) -> Prefix | None:
    """The prefix that a training with the same settings left in ``folder``, if there is one.

    Raises:
        ConfigError: ``folder`` holds the prefix of another training.
    """
    if not (folder / PREFIX_FILE).is_file() or (folder / "checkpoints").exists():
        return None
    prefix = Prefix.load(folder / PREFIX_FILE)
    wanted = {**_as_json(settings), "base": backbone.fingerprint}
    there = {**prefix.config, "base": prefix.base_fingerprint}
    other = [key for key, value in wanted.items() if there.get(key) != value]
    if other:
        raise ConfigError(
            f"expected an empty folder or the same training in {folder}, got a prefix with other "
            f"{', '.join(other)}; give another --out, or remove that folder"
        )
    return prefix


@contextlib.contextmanager
def checkpoint_folder(folder: Path | None, settings: dict[str, Any]) -> Iterator[Path]:
    """Where checkpoints go: into ``folder``, or a temporary one where nothing is to be kept.

    Raises:
        ConfigError: ``folder`` holds checkpoints of other settings.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        _check_same_settings(folder / "checkpoints", settings)
        yield folder / "checkpoints"


def check_finite(trained: Prefix) -> None:
    """That a training has come to something, before its checkpoints go.

    Raises:
        RobustPrefixError: what it learned is not finite.
    """
    if not all(tensor.isfinite().all() for tensor in trained.learned.tensors().values()):
        raise RobustPrefixError(
            "expected finite numbers from the training, got NaN or infinity: it diverged; lower "
            "the learning rate (--learning-rate)"
        )


def keep(
    folder: Path, trained: Prefix, settings: dict[str, Any], history: list[dict[str, float]]
) -> None:
    """Write the loss curve ``training.json`` and the prefix; the checkpoints go."""
    # These go last: whatever happens next, the training need not be done again.
    write_json(folder / "training.json", {"settings": settings, "history": history})
    trained.save(folder / PREFIX_FILE)
    # At once under another name: half a folder of checkpoints would be taken up as a training.
    with tempfile.TemporaryDirectory(prefix=".done-", dir=folder) as done:
        (folder / "checkpoints").rename(Path(done) / "checkpoints")


def run_trainer(
    objective: nn.Module,
    learning_rate: float,
    train: list[dict[str, Any]],
    dev: list[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    config: TrainingConfig,
    seed: int,
    folder: Path,
    device: torch.device,
    *,
    keep_best: bool = True,
    measure: Callable[[Any], dict[str, float]] | None = None,
) -> list[dict[str, float]]:
    """Train ``objective`` in place and load its best state on dev.

    Args:
        objective: gives ``loss`` and, for ``measure``, ``logits`` for what ``collate`` makes.
        learning_rate: that of ``config`` is not read, which may leave it to the method.
        train, dev: rows with their tokens as ``ids``.
        folder: for checkpoints, from which a killed training goes on.
        device: where the model is.
        keep_best: load the best state in the end, and not the last.
        measure: gives the ``accuracy`` that is to be high; the dev loss is to be low without it.

    Returns:
        The loss and dev curve.
    """
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
        load_best_model_at_end=keep_best,
        metric_for_best_model="loss" if measure is None else "accuracy",
        greater_is_better=measure is not None,
        use_cpu=device.type == "cpu",
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        seed=seed,
        dataloader_pin_memory=False,
        restore_callback_states_from_checkpoint=True,
    )
    arguments._n_gpu = 1  # of several the trainer would take all, and the backbone is on one
    trainer = SeededTrainer(
        model=objective,
        args=arguments,
        train_dataset=train,
        eval_dataset=dev,
        data_collator=collate,
        compute_metrics=measure,
    )
    trainer.remove_callback(PrinterCallback)
    if config.patience:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    resume_from = _last_checkpoint(folder)
    total = math.ceil(steps_per_epoch * config.epochs)
    done = int(resume_from.rpartition("-")[2]) if resume_from else 0
    if (state := _at_its_end(resume_from, total, config.patience)) is not None:
        best = state["best_model_checkpoint"] if keep_best else None
        # by its name, for the folder may have moved since
        kept = folder / Path(best).name if best else resume_from
        trainer._load_from_checkpoint(str(kept))
        return _history(state["log_history"])
    with progress("training", total, done) as advance:
        trainer.add_callback(_callback(objective, sampler, steps_per_epoch, advance))
        with _storage_errors(folder):
            trainer.train(resume_from_checkpoint=resume_from)
    return _history(trainer.state.log_history)


def trained_parameters(objective: nn.Module) -> int:
    """How many numbers are optimised."""
    return sum(weight.numel() for weight in objective.parameters() if weight.requires_grad)


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


def _callback(
    objective: nn.Module, sampler: LengthGroupedBatches, steps_per_epoch: int, advance: Advance
) -> Any:
    from transformers import TrainerCallback

    class Follow(TrainerCallback):
        """Tells the sampler its epoch, and moving averages and the progress bar their step."""

        note = ""

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            sampler.epoch = state.global_step // steps_per_epoch

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            update_averages(objective)
            advance(state.global_step, self.note)
            if state.global_step >= state.max_steps:  # the last state, too, is one to keep
                control.should_evaluate = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            values = _history_row({**(logs or {}), "step": state.global_step})
            shown = [f"{k} {v:.3f}" for k, v in values.items() if k not in ("step", "epoch")]
            self.note = " ".join(shown)

    return Follow()


def _at_its_end(checkpoint: str | None, total: int, patience: int) -> dict[str, Any] | None:
    """The state of a training whose last checkpoint there is; the trainer would go a step on."""
    if checkpoint is None:
        return None
    state: dict[str, Any] = read_json(Path(checkpoint) / "trainer_state.json")
    stopping = state["stateful_callbacks"].get("EarlyStoppingCallback", {}).get("attributes", {})
    waited = stopping.get("early_stopping_patience_counter", 0)
    over = state["global_step"] >= total or (patience and waited >= patience)
    return state if over else None


def _history(log: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The rows that hold a loss; the trainer's last one tells how long it took."""
    return [_history_row(row) for row in log if "loss" in row or "eval_loss" in row]


def _history_row(row: dict[str, float]) -> dict[str, float]:
    names = {
        "step": "step",
        "epoch": "epoch",
        "loss": "loss",
        "eval_loss": "dev_loss",
        "eval_accuracy": "dev_accuracy",
    }
    return {new: row[old] for old, new in names.items() if old in row}


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
