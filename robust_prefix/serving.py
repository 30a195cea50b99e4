"""One loaded model that answers for several tasks, switched by prefix, mixed in one batch."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from robust_prefix.backbones import Backbone
from robust_prefix.classifier import Prediction, PrefixClassifier, Text
from robust_prefix.defenses import NoDefense
from robust_prefix.errors import ConfigError, InputError, unknown_name
from robust_prefix.prefixes.mixing import Prompt, mixed_scores
from robust_prefix.runs import Run
from robust_prefix.tasks import Fields

Request = tuple[str, Text]
"""The name of a task and a text for it."""


class PrefixServer:
    """A frozen model in memory once, and a prefix, template and label words for each task.

    Undefended tasks are answered in mixed batches, but for those whose method changes the model,
    which are answered apart; each defended one by its own defence, apart from
    the others, for a defence sees its own texts alone. Any number of threads may ask; the model
    runs for one of them at a time.

    Args:
        backbone: the loaded model; every task adds its prefix and what its defence has, no more.
        classifiers: the first tasks, by name.

    Raises:
        ConfigError: a classifier has another loaded model.
    """

    def __init__(
        self, backbone: Backbone, classifiers: Mapping[str, PrefixClassifier] | None = None
    ) -> None:
        self.backbone = backbone.frozen
        self._classifiers: dict[str, PrefixClassifier] = {}
        self._changing = threading.Lock()
        for name, classifier in (classifiers or {}).items():
            self.add(classifier, name)

    @property
    def classifiers(self) -> Mapping[str, PrefixClassifier]:
        """Those that are served, by name."""
        return dict(self._classifiers)

    def add(self, classifier: PrefixClassifier, name: str | None = None) -> None:
        """Serve one more task; calls that are under way in other threads do not see it yet.

        Args:
            name: what requests call it; the task's own name where not given.

        Raises:
            ConfigError: the name is taken, or the classifier has another loaded model.
        """
        name = classifier.task.name if name is None else name
        if classifier.model.backbone.frozen is not self.backbone:
            raise ConfigError(
                f"expected a classifier on the loaded {self.backbone.name} of this server, got "
                f"{name!r} on another; load it with backbone=server.backbone"
            )
        with self._changing:
            if name in self._classifiers:
                raise ConfigError(
                    f"expected a new name for a task to serve, got {name!r}, which is served; "
                    "remove it first, or add this one under another name"
                )
            self._classifiers = {**self._classifiers, name: classifier}

    def remove(self, name: str) -> None:
        """Serve a task no more; calls that are under way in other threads still answer it.

        Raises:
            ConfigError: no such task is served.
        """
        with self._changing:
            if name not in self._classifiers:
                raise unknown_name("task", name, self._classifiers)
            self._classifiers = {key: c for key, c in self._classifiers.items() if key != name}

    def logits(self, requests: Sequence[Request], batch_size: int = 32) -> list[Tensor]:
        """Class scores of each request, float32 ``(classes of its task,)`` on the CPU.

        Raises:
            ConfigError: a task is not served.
            InputError: a text does not fit its task; the request's place is named.
        """
        return [answer.scores for answer in self._answers(requests, batch_size)]

    def classify(self, requests: Sequence[Request], batch_size: int = 32) -> list[Prediction]:
        """Each request's class name with probabilities, whether its text had to be cut, and whether
        its task's defence refuses to answer."""
        return [answer.prediction for answer in self._answers(requests, batch_size)]

    def predict(self, requests: Sequence[Request], batch_size: int = 32) -> list[str | None]:
        """The class name of each request; None where its task's defence abstains."""
        answers = self.classify(requests, batch_size)
        return [None if answer.abstained else answer.label for answer in answers]

    @classmethod
    def from_pretrained(
        cls,
        runs: Sequence[str | Path],
        defense: str = "default",
        *,
        device: str = "auto",
        dtype: str = "auto",
        data_dir: str | Path | None = None,
    ) -> PrefixServer:
        """Serve run directories or ``zoo:NAME``, each by its task's name, on the first one's model.

        Args:
            defense: of each; ``default`` is each run's own.

        Raises:
            ArtifactError: a run is missing or damaged, or belongs to another base model.
            ConfigError: two runs have one task, or the defence is unknown.
            InputError: there are no runs.
        """
        if not runs:
            raise InputError("expected at least one run to serve, got none")
        tasks = [Run.load(run, data_dir).task.name for run in runs]
        if len(set(tasks)) < len(tasks):  # said before the model is loaded, which takes long
            raise ConfigError(
                f"expected runs of different tasks, got those of {', '.join(tasks)}; serve one of "
                "each task"
            )
        first = PrefixClassifier.from_pretrained(
            runs[0], defense, device=device, dtype=dtype, data_dir=data_dir
        )
        server = cls(first.model.backbone)
        server.add(first)
        for run in runs[1:]:
            server.load(run, defense, data_dir=data_dir)
        return server

    def load(
        self,
        run: str | Path,
        defense: str = "default",
        name: str | None = None,
        *,
        data_dir: str | Path | None = None,
    ) -> None:
        """Serve one more run directory or ``zoo:NAME``; see :meth:`add`.

        Raises:
            ArtifactError: the run is missing or damaged, or belongs to another base model.
            ConfigError: the name is taken, or the defence is unknown.
        """
        loaded = PrefixClassifier.from_pretrained(
            run, defense, backbone=self.backbone, data_dir=data_dir
        )
        self.add(loaded, name)

    def _answers(self, requests: Sequence[Request], batch_size: int) -> list[_Answer]:
        classifiers = self._classifiers  # this table is never changed, only replaced
        scores: dict[int, Tensor] = {}
        cut: dict[int, bool] = {}
        abstained: dict[int, bool] = {}
        mixed: dict[int, Prompt] = {}
        for name, own in _by_task(classifiers, requests).items():
            classifier, texts = classifiers[name], list(own.values())
            encoded = classifier.model.prompter.encode(texts)
            cut |= zip(own, encoded.truncated, strict=True)
            if isinstance(classifier.defense, NoDefense):
                prompts = [(classifier.model, row) for row in encoded.rows]
                mixed |= zip(own, prompts, strict=True)
            else:
                decisions = classifier.decide(texts, batch_size)
                scores |= zip(own, decisions.logits, strict=True)
                abstained |= zip(own, decisions.abstained.tolist(), strict=True)
        scores |= zip(mixed, mixed_scores(list(mixed.values()), batch_size), strict=True)
        return [
            _Answer(
                classifiers[name].task.labels,
                scores[place],
                cut[place],
                abstained.get(place, False),
            )
            for place, (name, _) in enumerate(requests)
        ]


@dataclass(frozen=True)
class _Answer:
    """Class scores ``(classes,)`` of one request."""

    labels: tuple[str, ...]
    scores: Tensor
    truncated: bool
    abstained: bool

    @property
    def prediction(self) -> Prediction:
        probabilities = dict(zip(self.labels, self.scores.softmax(-1).tolist(), strict=True))
        label = self.labels[int(self.scores.argmax())]
        return Prediction(label, probabilities, self.truncated, self.abstained)


def _by_task(
    classifiers: Mapping[str, PrefixClassifier], requests: Sequence[Request]
) -> dict[str, dict[int, Fields]]:
    """By task, the texts of the requests for it, by place."""
    found: dict[str, dict[int, Fields]] = {}
    for place, (name, text) in enumerate(requests):
        if name not in classifiers:
            raise unknown_name("task", name, classifiers)
        found.setdefault(name, {})[place] = classifiers[name].task.fields(text, f"text {place}")
    return found
