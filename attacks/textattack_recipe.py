"""A TextAttack recipe behind this project's ``Attack`` protocol."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attacks.base import Config, Recipe
from attacks.textattack_import import import_textattack
from attacks.victim import VictimWrapper, without_blanks
from robust_prefix.errors import InputError
from robust_prefix.evaluation.protocols import Attempt, Randomized, Victim
from robust_prefix.tasks import Fields


@dataclass(frozen=True)
class Parts:
    """What TextAttack composes an attack of, beside the goal."""

    transformation: Any
    constraints: list[Any]
    search: Any


class TextAttackRecipe(Recipe[Config]):
    """An attack composed of TextAttack's parts.

    One instance attacks one example at a time; it is not for use from several threads, for
    TextAttack draws from the global random generators.

    Some things are as TextAttack 0.3.11 has them, in every recipe: stopwords are spared in lower
    case alone, a share of words that may change is one of all columns, those that may not change
    included, and of three and more classes genetic and swarm searches may pass over a success
    whose true class is likelier than another text's.
    """

    packages = ("textattack",)

    def __init__(
        self, columns: tuple[str, ...], config: Config, data_dir: str | Path | None = None
    ) -> None:
        super().__init__(columns, config, data_dir)
        import_textattack(data_dir)
        self._wrapper = VictimWrapper()
        self._attack = self._compose()

    @abstractmethod
    def parts(self) -> Parts:
        """The paper's transformation, constraints and search; called once TextAttack is there."""

    def goal_function(self, **settings: Any) -> Any:
        """What TextAttack aims at, which is misclassification unless ``goal`` says otherwise."""
        from textattack.goal_functions import UntargetedClassification

        return UntargetedClassification(self._wrapper, **settings)

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """Attack one example of class ``label``; the same ``seed`` gives the same attempt.

        The global random generators are as before afterwards. An example that the victim gets
        wrong as it is costs one query and is left alone.

        Raises:
            InputError: ``fields`` does not have the columns of this attack, TextAttack cannot
                handle its text, or the victim's answers are no logits.
        """
        from textattack.attack_results import SuccessfulAttackResult
        from textattack.shared import AttackedText

        self._check(fields)
        if any(AttackedText.SPLIT_TOKEN in text for text in fields):
            raise InputError(
                f"expected texts without {AttackedText.SPLIT_TOKEN!r}, TextAttack's mark between "
                f"columns, got {fields}; leave the example out"
            )
        # TextAttack remembers answers by text, which are not to be had twice of these.
        varies = isinstance(victim, Randomized) and victim.randomized
        self._attack.goal_function.use_cache = not varies
        self._wrapper.victim = victim
        try:
            with _seeded(seed):
                # numpy integers are refused as labels
                result = self._attack.attack(
                    OrderedDict(zip(self.columns, fields, strict=True)), int(label)
                )
        finally:
            # TextAttack forgets nothing after a skipped or interrupted example.
            self._attack.clear_cache()
            self._wrapper.victim = None
        queries = self._attack.goal_function.num_queries
        if not isinstance(result, SuccessfulAttackResult):
            return Attempt(None, queries)
        # Never by its printing: that detects the language, which fails on texts such as "10/10".
        text = result.perturbed_result.attacked_text.tokenizer_input
        adversarial = (text,) if isinstance(text, str) else tuple(text)
        for column, before, after in zip(self.columns, fields, adversarial, strict=True):
            if column in self._protected and before != after:
                raise InputError(
                    f"expected the {column} unchanged, got {after!r} for {before!r}: TextAttack "
                    "counted its words wrongly; leave the example out"
                )
        return Attempt(without_blanks(adversarial), queries)  # what was asked about

    def _stopwords(self) -> list[str]:
        """The English stopwords of the folder that ``resources`` names."""
        from attacks.resources.wordnet import english_stopwords

        return english_stopwords(self._found("stopwords"))

    def _compose(self) -> Any:
        from textattack import Attack
        from textattack.constraints.pre_transformation import InputColumnModification

        parts = self.parts()
        constraints = list(parts.constraints)
        if self._protected:
            constraints.append(InputColumnModification(list(self.columns), set(self._protected)))
        goal = self.goal_function(
            query_budget=self.config.max_queries or float("inf"),
            # All candidates of a step at once: the victim makes batches of its own.
            model_batch_size=2**15,
        )
        return Attack(goal, constraints, parts.transformation, parts.search)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which TextAttack draws from; restore their states afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            seed %= 2**32  # numpy takes no more bits
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
