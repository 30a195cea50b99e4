"""(a) What a defended answer costs beside a plain one, and beside the published program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.errors import ArtifactError
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Fields
from timing.interleave import clock_for, timed
from timing.literal import Literal, Sensible
from timing.material import Material
from timing.results import Plan, Row, contests

PART = "defense"
PLAIN = "none"
PAPER = "robust-prefix(mode=batch)"
EXAMPLE = "robust-prefix"
POLYAK = "robust-prefix(optimizer=polyak, steps=3)"
GATED = "gate+robust-prefix"
TUNED = (PLAIN, PAPER, EXAMPLE, POLYAK)
OURS = (*TUNED, GATED, f"gate+{POLYAK}")
"""As a user would type them; the gate tunes for the texts alone of whose answer it is unsure."""

Answer = Callable[[Sequence[Fields]], object]
"""Classifies the texts as one batch."""


def our_answers(classifier: PrefixClassifier, specs: Sequence[str] = OURS) -> dict[str, Answer]:
    """The modes of ours, by the name a user would type.

    Raises:
        ArtifactError: the run has no subspaces, or no margins for the gate.
    """
    defended = {spec: classifier.with_defense(classifier.build_defense(spec)) for spec in specs}
    return {spec: _answer(each) for spec, each in defended.items()}


def _answer(classifier: PrefixClassifier) -> Answer:
    def answer(texts: Sequence[Fields]) -> object:
        return classifier.logits(texts, batch_size=len(texts))

    return answer


def all_answers(classifier: PrefixClassifier) -> dict[str, Answer]:
    """Ours and the two literal ones."""
    answers = our_answers(classifier)
    for kind in (Literal, Sensible):
        answers[kind.name] = kind(classifier.model, fitted(classifier)).logits
    return answers


def fitted(classifier: PrefixClassifier) -> Subspaces:
    """The classifier's subspaces.

    Raises:
        ArtifactError: it has none.
    """
    if classifier.subspaces is None:
        raise ArtifactError(
            "expected a run with subspaces, got one without; run robust-prefix fit-subspaces on it"
        )
    return classifier.subspaces


def measure(
    classifier: PrefixClassifier, material: Material, plan: Plan, sizes: Sequence[int]
) -> list[Row]:
    """Every mode at every batch size; each round has texts of its own, the same for all modes."""
    clock = clock_for(classifier.model.backbone.device)
    answers = all_answers(classifier)
    rows: list[Row] = []
    with contests(PART, len(sizes), len(answers), plan) as run:
        for size in sizes:
            contestants = {
                name: timed(_on_windows(answer, material, size), clock)
                for name, answer in answers.items()
            }
            rows += run({"batch": size}, contestants, PLAIN, [size] * plan.rounds)
    return rows


def _on_windows(answer: Answer, material: Material, size: int) -> Callable[[int], object]:
    return lambda number: answer(material.window(number, size).texts)
