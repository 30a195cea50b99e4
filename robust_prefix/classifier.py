"""The facade: a text classifier with one defence, from a run directory or from parts."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robust_prefix.backbones import Backbone, load_backbone
from robust_prefix.certification import Certificate, CertifyConfig, certify
from robust_prefix.defenses import Defense, Fitted, NoDefense, build_defense, layers
from robust_prefix.detection import Decisions
from robust_prefix.errors import ConfigError
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.prefixes.scoring import Beginnings
from robust_prefix.runs import Run
from robust_prefix.specs import build_config
from robust_prefix.subspaces import Subspaces
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import Task

logger = logging.getLogger(__name__)

Text = str | Sequence[str] | Mapping[str, str]
"""One text: a string, or for tasks of several columns a sequence or a mapping of them."""


@dataclass(frozen=True)
class Prediction:
    """One answer.

    Attributes:
        label: the class name.
        probabilities: by class name.
        truncated: whether the text was longer than the task's ``max_tokens``.
        abstained: whether the defence refuses to answer; the rest is what it would have said.
    """

    label: str
    probabilities: dict[str, float]
    truncated: bool
    abstained: bool = False


class PrefixClassifier:
    """A frozen language model, a task, a prefix and a defence.

    Args:
        defense: none where not given.
        fitted: what defences are built from, kept for :meth:`save_pretrained`; what is not given
            is that of ``defense``.
        measurements: what is known of the prefix, kept for :meth:`save_pretrained`.

    Raises:
        ArtifactError: the prefix belongs to another base model.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        prefix: Prefix,
        defense: Defense[Any] | None = None,
        fitted: Fitted | None = None,
        measurements: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = PrefixModel(backbone, task, prefix)
        self.defense = defense if defense is not None else NoDefense()
        self.fitted = _completed(fitted if fitted is not None else Fitted(), self.defense)
        self.measurements = dict(measurements or {})

    @property
    def task(self) -> Task:
        """The task."""
        return self.model.task

    @property
    def subspaces(self) -> Subspaces | None:
        """The fitted subspaces; None where there are none."""
        return self.fitted.subspaces

    def with_defense(self, defense: Defense[Any]) -> PrefixClassifier:
        """The same classifier behind another defence; the model is shared."""
        found = copy.copy(self)
        found.model = copy.copy(self.model)
        found.model.beginnings = None  # what one remembers is not for the other
        found.defense = defense
        found.fitted = _completed(self.fitted, defense)
        return found

    def build_defense(self, text: str) -> Defense[Any]:
        """A defence from its name and settings, with what this classifier's run has fitted.

        Raises:
            ConfigError, ArtifactError: see :func:`robust_prefix.defenses.build_defense`.
        """
        return build_defense(text, self.fitted)

    def decide(self, texts: Sequence[Text], batch_size: int = 32) -> Decisions:
        """Class scores as of :meth:`logits`, and which texts the defence refuses to answer.

        Raises:
            InputError: see :meth:`logits`.
        """
        fields = self.task.every(texts)
        return self.defense.decide(self.model, fields, batch_size)

    def logits(self, texts: Sequence[Text], batch_size: int = 32) -> Tensor:
        """Class scores, float32 ``(len(texts), classes)`` on the CPU.

        Raises:
            InputError: a text is empty, has a NUL byte, or lacks a column; its place is named.
        """
        fields = self.task.every(texts)
        return self.defense.logits(self.model, fields, batch_size)

    def predict_proba(self, texts: Sequence[Text], batch_size: int = 32) -> NDArray[np.float32]:
        """Class probabilities in the order of ``task.labels``, float32 ``(texts, classes)``."""
        probabilities: NDArray[np.float32] = self.logits(texts, batch_size).softmax(-1).numpy()
        return probabilities

    @overload
    def predict(self, texts: str, batch_size: int = 32) -> str | None: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, texts: Sequence[Text], batch_size: int = 32) -> list[str | None]: ...
    def predict(
        self, texts: str | Sequence[Text], batch_size: int = 32
    ) -> str | list[str | None] | None:
        """Class names: one for a string, a list for a list; None where the defence abstains."""
        if isinstance(texts, str):
            return self.predict([texts], batch_size)[0]
        chosen = self.decide(texts, batch_size).labels
        return [None if index is None else self.task.labels[index] for index in chosen]

    def classify(self, texts: Sequence[Text], batch_size: int = 32) -> list[Prediction]:
        """Class names with probabilities, and whether a text had to be cut."""
        decisions = self.decide(texts, batch_size)
        probabilities = decisions.logits.softmax(-1).numpy()
        fields = self.task.every(texts)
        truncated = self.model.prompter.encode(fields).truncated
        return [
            Prediction(
                label=self.task.labels[int(row.argmax())],
                probabilities=dict(zip(self.task.labels, map(float, row), strict=True)),
                truncated=cut,
                abstained=refused,
            )
            for row, cut, refused in zip(
                probabilities, truncated, decisions.abstained.tolist(), strict=True
            )
        ]

    def certify(
        self,
        texts: Sequence[Text],
        batch_size: int = 32,
        *,
        substitutes: Substitutes | None = None,
        **settings: Any,
    ) -> list[Certificate]:
        """How many words of each text may change before its answer does, for certain.

        Args:
            substitutes: what may stand for a word, for the method ``lists``; see
                ``attacks.lexicon``.
            settings: see :class:`robust_prefix.certification.CertifyConfig`.

        Raises:
            ConfigError: the defence has no ``masked-vote``, or is not certified; or a setting is
                unknown.
        """
        fields = self.task.every(texts)
        config = build_config(CertifyConfig, settings, "certify")
        found = certify(
            self.model, self.defense, fields, config, batch_size, substitutes=substitutes
        )
        return list(found)

    def gradients(
        self, texts: Sequence[Text], labels: Sequence[int], through: Through = "fixed"
    ) -> list[TokenGradients]:
        """How each text's loss for its label changes with its embeddings, through the defence.

        Args:
            labels: class numbers, one a text.
            through: whether a dynamic defence's tuning is held constant (``fixed``) or
                back-propagated through (``unrolled``).

        Raises:
            ConfigError: the defence cannot be differentiated.
            InputError: a text or a label is not one of the task's.
        """
        fields = self.task.every(texts)
        return self.defense.gradients(self.model, fields, labels, through)

    def embeddings(self) -> NDArray[np.float32]:
        """The input embedding matrix, float32 ``(vocabulary, hidden)``; not to be written to."""
        matrix: NDArray[np.float32] = self.model.backbone.embeddings.float().cpu().numpy()
        return matrix

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, with the spaces they carry."""
        return self.model.backbone.decode(tokens)

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of each text inside a prompt: ``" good"`` differs from ``"good"``."""
        return [tuple(row) for row in self.model.backbone.encode(texts)]

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """While inside, keys and values of texts are kept to answer those that begin alike sooner.

        It changes answers by rounding alone, and so a text's answer may differ in its last bits
        from one call to the next. Outside, nothing is kept from call to call.
        """
        self.model.beginnings = Beginnings()
        try:
            yield
        finally:
            self.model.beginnings = None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a run directory; the frozen model is named in it, not copied.

        Raises:
            StorageError: writing failed; nothing is left half-written.
        """
        Run(
            task=self.task,
            prefix=self.model.prefix,
            subspaces=self.fitted.subspaces,
            synonyms=self.fitted.synonyms,
            defense=self.defense.spec,
            measurements=self.measurements,
            members=self.fitted.members,
            detectors=self.fitted.detectors,
            words=self.fitted.words,
            vocabulary=self.fitted.vocabulary,
        ).save(folder)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        defense: str | Defense[Any] = "default",
        *,
        backbone: Backbone | None = None,
        device: str = "auto",
        dtype: str = "auto",
        data_dir: str | Path | None = None,
    ) -> PrefixClassifier:
        """Load a run directory or ``zoo:NAME``.

        Args:
            defense: a defence, its name with settings, or ``default`` for the run's own.
            backbone: a loaded base model to share; loaded by the run's name where not given.

        Raises:
            ArtifactError: the run is missing or damaged, or belongs to another base model.
            ConfigError: the defence is unknown.
        """
        run = Run.load(name, data_dir)
        if isinstance(defense, str):
            spec = run.defense if defense == "default" else defense
            defense = build_defense(spec, run.fitted)
        if backbone is None:
            backbone = load_backbone(run.prefix.base_model, device=device, dtype=dtype)
        return cls(backbone, run.task, run.prefix, defense, run.fitted, run.measurements)


def _completed(fitted: Fitted, defense: Defense[Any]) -> Fitted:
    """``fitted`` with what the defence's parts were built from in place of its own: what is saved
    answers as this classifier does.

    Raises:
        ConfigError: two parts were built from different ones.
    """
    found: dict[str, Any] = {}
    for part in layers(defense):
        for name, value in vars(part.built_from).items():
            if not value:
                continue
            if name in found and _fingerprint(found[name]) != _fingerprint(value):
                raise ConfigError(
                    f"expected one set of {name} for all parts of {defense.spec!r}, got two "
                    "different ones; build the parts from the same"
                )
            found[name] = value
    return dataclasses.replace(fitted, **found)


def _fingerprint(fitted: Any) -> Any:
    """What tells one fitted part from another; detectors have none but themselves."""
    if isinstance(fitted, tuple):
        return tuple(_fingerprint(each) for each in fitted)
    return getattr(fitted, "fingerprint", id(fitted))
