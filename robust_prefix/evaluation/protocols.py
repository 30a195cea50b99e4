"""What an attack, a victim and a classifier must offer to be evaluated together.

Everything here is structural: an attack needs no base class of ours and a classifier needs not
know that it is evaluated. The protocols of an evaluation:

``replay``
    adversaries crafted on the undefended model are shown to the defended one, as they are;
``direct``
    the attack queries the defended model itself;
``adaptive``
    so it does, and is shown the scores that the defence hides behind a bound, as an attacker with
    the weights sees them; where a defence hides none that is the direct attack, made once;
``worst``
    derived: an example counts as held only if it survives all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.tasks import Fields

if TYPE_CHECKING:
    import numpy as np
    import torch

    from robust_prefix.detection import Decisions

ProtocolName = Literal["replay", "direct", "adaptive", "worst"]
PROTOCOLS: tuple[ProtocolName, ...] = ("replay", "direct", "adaptive", "worst")

Knowledge = Literal["none", "label", "score", "gradient"]
"""What an attacker sees of the model: nothing, its answer, its scores, or their gradients."""

Goal = Literal["misclassify", "keep"]
"""What an adversary is to do: be misclassified; or keep its answer though the text was reduced to
nonsense."""


@dataclass(frozen=True)
class Example:
    """One labelled text of the test split."""

    index: int  # its row in the test split
    fields: Fields
    label: int


class Victim(Protocol):
    """What an attack sees of a model: names and logits, nothing inside."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the logits' columns."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the text columns, in the order of ``Fields``."""
        ...

    def logits(self, texts: Sequence[Fields]) -> np.ndarray:
        """Scores of ``texts``: float32 ``(len(texts), classes)``."""
        ...


@runtime_checkable
class Randomized(Protocol):
    """A victim that tells whether its answer to one text may differ from call to call."""

    @property
    def randomized(self) -> bool: ...


@runtime_checkable
class Facing(Protocol):
    """A victim that may refuse to answer and shows that by the class an attacker starts from."""

    def facing(self, label: int) -> Victim:
        """It as it is seen from texts of the class ``label``."""
        ...


class WhiteBox(Protocol):
    """What an attacker with the weights sees in addition; ``PrefixClassifier`` shows it."""

    def gradients(
        self, texts: Sequence[Fields], labels: Sequence[int], through: Through = "fixed"
    ) -> list[TokenGradients]:
        """Gradients of each text's loss for its label, through the defence.

        Raises:
            ConfigError: the defence cannot be differentiated.
        """
        ...

    def embeddings(self) -> np.ndarray:
        """The input embedding matrix: float32 ``(vocabulary, hidden)``."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with the spaces they carry."""
        ...

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each text inside a prompt: ``" good"`` differs from ``"good"``."""
        ...


class GradientVictim(Victim, WhiteBox, Protocol):
    """A victim that shows its gradients."""


@dataclass(frozen=True)
class ThreatModel:
    """What an attacker may do and see.

    Attributes:
        knowledge: what is seen of the model.
        columns: the text columns that may change.
        edits: the limits of a change, in one line.
        max_queries: queries an example may cost; None is no limit.
    """

    knowledge: Knowledge
    columns: tuple[str, ...]
    edits: str
    max_queries: int | None


@dataclass(frozen=True)
class Attempt:
    """What an attack made of one example."""

    adversarial: Fields | None  # None: it found nothing
    queries: int  # as the attack counts them against its budget, cached answers included


class Attack(Protocol):
    """A search for a text that reads like ``fields`` and is misclassified."""

    @property
    def name(self) -> str:
        """Short name: ``pwws``."""
        ...

    @property
    def spec(self) -> str:
        """Canonical name with every setting."""
        ...

    @property
    def resources(self) -> Mapping[str, str]:
        """Word lists and the like by name: where each was found and its hash.

        An origin of ``substitute`` says that it stands in for the one the paper used.
        """
        ...

    @property
    def goal(self) -> Goal:
        """What an adversary is to do."""
        ...

    @property
    def threat(self) -> ThreatModel:
        """What the attacker may do and see."""
        ...

    @property
    def deviation(self) -> str:
        """How this differs from its paper, in one line; empty where it does not."""
        ...

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """Attack one example of class ``label``; the same ``seed`` gives the same attempt."""
        ...


@runtime_checkable
class UniversalAttack(Attack, Protocol):
    """One change for all texts, searched for once and then only applied."""

    def fit(self, victim: Victim, examples: Sequence[Example], seed: int) -> str:
        """Search for the change on training examples.

        Returns:
            What was found, as JSON text.
        """
        ...

    def fitted(self, state: str) -> Attack:
        """The attack that applies what ``fit`` returned."""
        ...


@runtime_checkable
class RecordedAttack(Attack, Protocol):
    """Adversaries that were found elsewhere, with the examples they belong to.

    They are shown to every system, the undefended included; nothing can be attacked with them.
    """

    @property
    def sha256(self) -> str:
        """Hash of the record, which tells it from any other wherever it lies."""
        ...

    def examples(self, read_label: Callable[[object, int], int]) -> list[Example]:
        """The examples in order, their places in the record as indices.

        Args:
            read_label: :meth:`robust_prefix.tasks.Task.label`.

        Raises:
            InputError: a label is none of the task's.
        """
        ...

    def adversary(self, index: int) -> Fields | None:
        """What was found for the example at ``index``; None where that attack failed."""
        ...


class PassCounter(Protocol):
    """Running totals of full passes through the model, times examples."""

    @property
    def forward(self) -> float: ...

    @property
    def backward(self) -> float: ...

    def reset(self) -> None:
        """Set both totals to zero."""
        ...


class EvaluatedDefense(Protocol):
    """What the evaluation reads of a defence."""

    @property
    def spec(self) -> str:
        """Canonical name with every setting."""
        ...

    @property
    def dynamic(self) -> bool:
        """Whether it optimises at inference."""
        ...

    @property
    def cost(self) -> PassCounter: ...


class EvaluatedTask(Protocol):
    """What the evaluation reads of a task."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> tuple[str, ...]: ...


class Classifier(Protocol):
    """A model with one fixed defence; ``robust_prefix.PrefixClassifier`` is one."""

    @property
    def task(self) -> EvaluatedTask: ...

    @property
    def defense(self) -> EvaluatedDefense: ...

    def logits(self, texts: list[Fields], /) -> torch.Tensor:
        """Scores of ``texts``: float32 ``(len(texts), classes)``."""
        ...


@runtime_checkable
class Deciding(Protocol):
    """A classifier that may refuse to answer."""

    def decide(self, texts: list[Fields], /) -> Decisions:
        """Scores as of ``Classifier.logits``, and which texts get no answer."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A classifier that can keep something of earlier texts to answer similar ones sooner."""

    def remembering(self) -> AbstractContextManager[None]:
        """While inside, it does; it knows nothing of earlier texts when that begins."""
        ...
