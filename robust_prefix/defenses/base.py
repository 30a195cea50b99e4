"""What every defence is: texts in, class scores out, its work counted."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar, final

import torch
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.backbones.base import Passes
from robust_prefix.data import length_batches
from robust_prefix.defenses.differentiation import token_gradients
from robust_prefix.detection import Decisions, Detectors
from robust_prefix.errors import ArtifactError, InputError, RobustPrefixError, unknown_name
from robust_prefix.gradients import Through, TokenGradients
from robust_prefix.prefixes import Encoded, Inputs, Prefix, PrefixModel, plain_scores
from robust_prefix.specs import Spec, build_config
from robust_prefix.subspaces import Subspaces
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Fields
from robust_prefix.vocabulary import Vocabulary
from robust_prefix.word_scores import WordScores


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class NoSettings:
    """The configuration of a defence without settings."""


@dataclass(frozen=True)
class Fitted:
    """What a run has beside its prefix, see :class:`robust_prefix.runs.Run`."""

    subspaces: Subspaces | None = None
    synonyms: SynonymClusters | None = None
    members: tuple[Prefix, ...] = ()
    detectors: Detectors | None = None
    words: WordScores | None = None
    vocabulary: Vocabulary | None = None


Config = TypeVar("Config")


class Defense(ABC, Generic[Config]):
    """Base of all defences.

    Subclasses give ``name`` and ``config_type``, and implement :meth:`run` for one batch.

    Attributes:
        name: what users type.
        summary: what it does, in a few words.
        dynamic: it optimises at inference; a replay number alone says nothing about it.
        randomized: two calls with the same text may differ.
        hides_scores: its scores do not show all that its answer hangs on; ``Decisions.unhidden``
            does.
        batch_dependent: an answer depends on the other texts of the batch, so batches keep the
            user's order; all others are sorted by length.
        needs_subspaces: it reads fitted subspaces.
        needs_synonyms: it reads synonym clusters.
        needs_members: it asks other prefixes beside the run's own.
        needs_detectors: it reads fitted detectors.
        needs_words: it reads fitted scores of words.
        built_from: what was fitted for it, without that of a wrapped defence; a run keeps it.
        cost: passes spent so far.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    config_type: ClassVar[type[Any]] = NoSettings
    dynamic: bool = False
    randomized: bool = False
    hides_scores: bool = False
    needs_subspaces: ClassVar[bool] = False
    needs_synonyms: ClassVar[bool] = False
    needs_members: ClassVar[bool] = False
    needs_detectors: ClassVar[bool] = False
    needs_words: ClassVar[bool] = False

    def __init__(self, subspaces: Subspaces | None = None, **settings: Any) -> None:
        if self.needs_subspaces and subspaces is None:
            raise ArtifactError(
                f"expected fitted subspaces for the defence {self.name!r}, got none; "
                "run robust-prefix fit-subspaces on the run first"
            )
        self.config: Config = build_config(self.config_type, settings, self.name)
        self.subspaces = subspaces
        self.built_from = Fitted(subspaces=subspaces)
        self.cost = Passes()

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """Build from settings given as text.

        Args:
            fitted: what the run has.
            inner: the defence to wrap, for those that wrap one.
        """
        return cls(fitted.subspaces if cls.needs_subspaces else None, **settings)

    @property
    def batch_dependent(self) -> bool:
        """Whether an answer depends on the other texts of its batch."""
        return False

    @property
    def spec(self) -> str:
        """Name and all settings that are given, as ``build_defense`` parses them."""
        settings = dataclasses.asdict(self.config)  # type: ignore[call-overload]
        given = {key: str(value) for key, value in settings.items() if value is not None}
        return str(Spec(self.name, given))

    @final
    def logits(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int = 32) -> Tensor:
        """Class scores, defended.

        Args:
            texts: as ``task.fields`` gives them.
            batch_size: texts a pass; where answers do not depend on it, of short ones more.

        Returns:
            float32 ``(len(texts), classes)`` on the CPU.

        Raises:
            RobustPrefixError: the defence returned another shape, or numbers that are not finite.
        """
        with self._counted(model):
            return self._checked(self._scores(model, texts, batch_size), len(texts), model)

    @final
    def decide(
        self, model: PrefixModel, texts: Sequence[Fields], batch_size: int = 32
    ) -> Decisions:
        """Class scores as of :meth:`logits`, and which texts get no answer.

        Args:
            texts: as ``task.fields`` gives them.
            batch_size: see :meth:`logits`.

        Raises:
            RobustPrefixError: see :meth:`logits`.
        """
        with self._counted(model):
            found = self._decisions(model, texts, batch_size)
        self._checked(found.logits, len(texts), model)
        return found

    @final
    def gradients(
        self,
        model: PrefixModel,
        texts: Sequence[Fields],
        labels: Sequence[int],
        through: Through = "fixed",
        batch_size: int = 16,
    ) -> list[TokenGradients]:
        """How each text's loss changes with its input embeddings, through the defence.

        The loss is the cross-entropy of the text's label over the label words. Where an answer
        depends on the batch, a text's gradient is that of the text alone.

        Args:
            texts: as ``task.fields`` gives them.
            labels: class numbers, one a text.
            through: ``fixed`` holds constant what the defence tunes at inference, ``unrolled``
                differentiates the tuning, too; where nothing is tuned they are the same.
            batch_size: texts a pass.

        Raises:
            ConfigError: the scores do not depend on the embeddings.
            InputError: a label is none of the task's, or there is not one for each text.
            RobustPrefixError: a gradient is not finite.
        """
        if through not in ("fixed", "unrolled"):
            raise unknown_name("through", through, ("fixed", "unrolled"))
        classes = len(model.task.labels)
        if len(labels) != len(texts) or not all(0 <= label < classes for label in labels):
            raise InputError(
                f"expected {len(texts)} labels of 0 to {classes - 1}, one a text, got {labels}"
            )
        with self._counted(model):
            return self._slopes(model, texts, labels, through, batch_size)

    def batches(self, encoded: Encoded, batch_size: int) -> list[list[int]]:
        """Indices of the texts that go through the model together."""
        if self.batch_dependent:
            everything = list(range(len(encoded)))
            return [everything[i : i + batch_size] for i in range(0, len(encoded), batch_size)]
        return length_batches([len(row) for row in encoded.rows], batch_size)

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        """What ``logits`` returns; batches of like length through ``run``."""
        scores = torch.empty(len(texts), len(model.task.labels))
        encoded = model.prompter.encode(texts)
        for indices in self.batches(encoded, batch_size):
            with torch.no_grad():
                scores[indices] = self.run(model, model.pad(encoded.select(indices))).float().cpu()
        return scores

    def _decisions(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Decisions:
        """What ``decide`` returns; most defences always answer."""
        return Decisions(self._scores(model, texts, batch_size))

    def _checked(self, scores: Tensor, texts: int, model: PrefixModel) -> Tensor:
        """``scores``, where they are what a defence may return."""
        expected = (texts, len(model.task.labels))
        if scores.shape != expected:
            raise RobustPrefixError(
                f"expected scores {expected} from the defence {self.name!r}, got shape "
                f"{tuple(scores.shape)}; mend the defence"
            )
        if not torch.isfinite(scores).all():
            if isinstance(self, NoDefense):
                remedy = "train the prefix again, at a lower rate"
            else:
                remedy = "lower its step size" if self.dynamic else "fit what it reads again"
            raise RobustPrefixError(
                f"expected finite scores from the defence {self.name!r}, got NaN or infinity; "
                f"{remedy}"
            )
        return scores

    def _slopes(
        self,
        model: PrefixModel,
        texts: Sequence[Fields],
        labels: Sequence[int],
        through: Through,
        batch_size: int,
    ) -> list[TokenGradients]:
        """What ``gradients`` returns."""
        run = self.run if through == "fixed" else self.run_unrolled
        encoded = model.prompter.encode(texts)
        found: dict[int, TokenGradients] = {}
        for indices in self.batches(encoded, 1 if self.batch_dependent else batch_size):
            slopes = token_gradients(
                self.name,
                lambda inputs: run(model, inputs),
                model,
                encoded.select(indices),
                [labels[index] for index in indices],
            )
            found |= zip(indices, slopes, strict=True)
        return [found[index] for index in range(len(texts))]

    @contextmanager
    def _counted(self, model: PrefixModel) -> Iterator[None]:
        """Refuse another model's subspaces; keep the model to itself, and add the passes made
        inside to ``cost``."""
        if self.subspaces is not None:
            self.subspaces.check(model.backbone.fingerprint, model.prefix.fingerprint)
        with model.backbone.lock:
            before = dataclasses.replace(model.backbone.passes)
            try:
                yield
            finally:
                self.cost.forward += model.backbone.passes.forward - before.forward
                self.cost.backward += model.backbone.passes.backward - before.backward

    @abstractmethod
    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        """Scores of one batch ``(batch, classes)``, from ``inputs.embedded``.

        Gradients are off, or lead from the scores to ``inputs.embedded`` with everything tuned
        on the way held constant.
        """

    def run_unrolled(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        """``run`` with gradients through what is tuned on the way."""
        return self.run(model, inputs)


@final
class NoDefense(Defense[NoSettings]):
    """The classifier as it was trained.

    The one defence for which texts that begin alike share the work on their beginning: any other
    may treat the same beginning differently in different texts.
    """

    name = "none"
    summary = "the classifier as it was trained"

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        return model.logits(inputs)

    def _scores(self, model: PrefixModel, texts: Sequence[Fields], batch_size: int) -> Tensor:
        return plain_scores(model, model.prompter.encode(texts), batch_size)
