"""Text classifiers made by prefix-tuning: train, fit, defend, attack, report.

The public names are loaded when they are first used, so that ``robust-prefix --help`` need not
wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robust_prefix.backbones import load_backbone
    from robust_prefix.classifier import PrefixClassifier
    from robust_prefix.configs import (
        AutoPromptConfig,
        ConvPromptConfig,
        DecodingConfig,
        EvolvedPromptConfig,
        GatedPrefixConfig,
        ManualPromptConfig,
        PrefixTuningConfig,
        PromptTuningConfig,
        PTuningConfig,
        SubspaceConfig,
        TrainingConfig,
    )
    from robust_prefix.fitting import fit_subspaces
    from robust_prefix.generation import PrefixGenerator, load_generation_task, train_generation
    from robust_prefix.prefixes import Prefix
    from robust_prefix.serving import PrefixServer
    from robust_prefix.subspaces import Subspaces
    from robust_prefix.tasks import Task, load_task
    from robust_prefix.training import train_prefix

__version__ = "0.1.0"

_HOMES = {
    "AutoPromptConfig": "configs",
    "ConvPromptConfig": "configs",
    "DecodingConfig": "configs",
    "EvolvedPromptConfig": "configs",
    "GatedPrefixConfig": "configs",
    "ManualPromptConfig": "configs",
    "PTuningConfig": "configs",
    "Prefix": "prefixes",
    "PrefixClassifier": "classifier",
    "PrefixGenerator": "generation",
    "PrefixServer": "serving",
    "PrefixTuningConfig": "configs",
    "PromptTuningConfig": "configs",
    "SubspaceConfig": "configs",
    "Subspaces": "subspaces",
    "Task": "tasks",
    "TrainingConfig": "configs",
    "fit_subspaces": "fitting",
    "load_backbone": "backbones",
    "load_generation_task": "generation",
    "load_task": "tasks",
    "train_generation": "generation",
    "train_prefix": "training",
}

__all__ = [
    "AutoPromptConfig",
    "ConvPromptConfig",
    "DecodingConfig",
    "EvolvedPromptConfig",
    "GatedPrefixConfig",
    "ManualPromptConfig",
    "PTuningConfig",
    "Prefix",
    "PrefixClassifier",
    "PrefixGenerator",
    "PrefixServer",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "SubspaceConfig",
    "Subspaces",
    "Task",
    "TrainingConfig",
    "fit_subspaces",
    "load_backbone",
    "load_generation_task",
    "load_task",
    "train_generation",
    "train_prefix",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"robust_prefix.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'robust_prefix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
