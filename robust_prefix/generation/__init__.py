"""Text generation behind a prefix, where prefix-tuning began (Li & Liang, ACL 2021)."""

from robust_prefix.generation.bleu import Bleu, measure_bleu
from robust_prefix.generation.examples import generate_examples
from robust_prefix.generation.generator import PrefixGenerator
from robust_prefix.generation.tasks import (
    GENERATION_TASKS,
    GenerationTask,
    Pair,
    class_task,
    load_generation_task,
    load_pairs,
)
from robust_prefix.generation.training import train_generation

__all__ = [
    "GENERATION_TASKS",
    "Bleu",
    "GenerationTask",
    "Pair",
    "PrefixGenerator",
    "class_task",
    "generate_examples",
    "load_generation_task",
    "load_pairs",
    "measure_bleu",
    "train_generation",
]
