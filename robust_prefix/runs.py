"""A run directory: what training and fitting leave behind, and what everything else starts from.

``run.json`` (task, base model, default defence, measurements), ``prefix.safetensors`` and, once
fitted, ``subspaces.safetensors``, ``synonyms.json``, ``vocabulary.json``, ``words.safetensors`` and
``detectors.safetensors``. Where several prefixes were put together, the others are in ``members/``.
``zoo:NAME`` names a run that comes with the package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robust_prefix.defenses.base import Fitted
from robust_prefix.detection import Detectors
from robust_prefix.errors import ArtifactError, ConfigError, RobustPrefixError, unknown_name
from robust_prefix.files import read_json, write_json
from robust_prefix.prefixes import PREFIX_FILE, Prefix
from robust_prefix.subspaces import Subspaces
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Task
from robust_prefix.vocabulary import Vocabulary
from robust_prefix.word_scores import WordScores

ZOO = Path(__file__).parent / "zoo"
RUN_FILE = "run.json"
SUBSPACES_FILE = "subspaces.safetensors"
SYNONYMS_FILE = "synonyms.json"
VOCABULARY_FILE = "vocabulary.json"
DETECTORS_FILE = "detectors.safetensors"
WORDS_FILE = "words.safetensors"
MEMBERS_FOLDER = "members"


@dataclass(frozen=True)
class Run:
    """A run in memory.

    Attributes:
        task: with its data's places relative to a data folder, which is given at loading.
        prefix: the trained prefix.
        subspaces: None until fitted.
        defense: the default defence's name and settings.
        measurements: accuracies and the like, with n and interval.
        synonyms: clusters; None until fitted.
        members: the other prefixes of an ensemble; see ``robust_prefix.defenses.Ensemble``.
        detectors: None until fitted.
        words: scores of words; None until fitted.
        vocabulary: the words of the training texts; None until counted.
    """

    task: Task
    prefix: Prefix
    subspaces: Subspaces | None = None
    defense: str = "none"
    measurements: Mapping[str, Any] = field(default_factory=dict)
    synonyms: SynonymClusters | None = None
    members: tuple[Prefix, ...] = ()
    detectors: Detectors | None = None
    words: WordScores | None = None
    vocabulary: Vocabulary | None = None

    @property
    def fitted(self) -> Fitted:
        """What the defences are built from."""
        return Fitted(
            subspaces=self.subspaces,
            synonyms=self.synonyms,
            members=self.members,
            detectors=self.detectors,
            words=self.words,
            vocabulary=self.vocabulary,
        )

    def save(self, folder: str | Path) -> None:
        """Write the run; each file is whole or not there, ``run.json`` comes last.

        What was fitted to another prefix that was here before is removed.

        Raises:
            StorageError: writing failed.
        """
        folder = Path(folder)
        before = folder / RUN_FILE
        # What was fitted to this very prefix stays, as when a finished training is asked for again.
        replaced = before.is_file() and (
            read_json(before).get("prefix_fingerprint") != self.prefix.fingerprint
        )
        self.prefix.save(folder / PREFIX_FILE)
        fitted: dict[str, Any] = {
            SUBSPACES_FILE: self.subspaces,
            SYNONYMS_FILE: self.synonyms,
            VOCABULARY_FILE: self.vocabulary,
            DETECTORS_FILE: self.detectors,
            WORDS_FILE: self.words,
        }
        for name, found in fitted.items():
            if found is not None:
                found.save(folder / name)
            elif replaced or name == VOCABULARY_FILE:  # of a run that was here before
                (folder / name).unlink(missing_ok=True)
        for member in self.members:
            member.save(folder / MEMBERS_FOLDER / f"{member.fingerprint}.safetensors")
        members = [member.fingerprint for member in self.members]
        write_json(
            folder / RUN_FILE,
            {
                "task": {**self.task.to_dict(), "splits": dict(self.task.splits)},
                "base_model": self.prefix.base_model,
                "base_fingerprint": self.prefix.base_fingerprint,
                "prefix_fingerprint": self.prefix.fingerprint,
                **({"members": members} if members else {}),
                "defense": self.defense,
                "measurements": dict(self.measurements),
            },
        )

    @classmethod
    def change(
        cls, name: str | Path, defense_of: Callable[[Run], str] | None = None, **changes: Any
    ) -> None:
        """Write a run directory with some of it anew, and all else as it is there now.

        What takes hours to fit begins with the run as it was then; what another command fitted
        since is to stay.

        Args:
            defense_of: the default defence from the run with the changes; as it is where not given.
            changes: attributes of the run.

        Raises:
            ArtifactError: see :meth:`load`.
            StorageError: writing failed.
        """
        run = dataclasses.replace(cls.load(name), **changes)
        if defense_of is not None:
            run = dataclasses.replace(run, defense=defense_of(run))
        run.save(run_folder(name))

    @classmethod
    def load_own(cls, name: str | Path, data_dir: str | Path | None = None) -> Run:
        """As :meth:`load`, for those who are going to :meth:`change` it.

        Raises:
            ConfigError: it comes with the package, whose files are everybody's.
            ArtifactError: see :meth:`load`.
        """
        if str(name).startswith("zoo:"):
            raise ConfigError(
                f"expected a run directory of your own to change, got {name}; copy "
                f"{run_folder(name)} first and name the copy"
            )
        return cls.load(name, data_dir)

    @classmethod
    def load(cls, name: str | Path, data_dir: str | Path | None = None) -> Run:
        """Read a run directory or ``zoo:NAME``.

        Raises:
            ArtifactError: it is not there, or a file of it is missing or damaged.
        """
        folder = run_folder(name)
        if not (folder / RUN_FILE).is_file():
            raise ArtifactError(
                f"expected a run directory with {RUN_FILE} at {folder}, got none; "
                "make one with robust-prefix train, or name one that exists (zoo:NAME serves too)"
            )
        values = read_json(folder / RUN_FILE)
        subspaces_file, synonyms_file = folder / SUBSPACES_FILE, folder / SYNONYMS_FILE
        detectors_file, words_file = folder / DETECTORS_FILE, folder / WORDS_FILE
        vocabulary_file = folder / VOCABULARY_FILE
        try:
            task = Task.from_dict(values["task"], data_dir=data_dir)
            defense, measurements = values["defense"], values["measurements"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"expected {error} in {folder / RUN_FILE}, got none") from None
        except RobustPrefixError as error:
            raise ArtifactError(f"{error} (in {folder / RUN_FILE})") from None
        return cls(
            task=task,
            prefix=prefix_of_run(folder, values, RUN_FILE),
            subspaces=Subspaces.load(subspaces_file) if subspaces_file.is_file() else None,
            synonyms=SynonymClusters.load(synonyms_file) if synonyms_file.is_file() else None,
            defense=defense,
            measurements=measurements,
            members=tuple(
                Prefix.load(folder / MEMBERS_FOLDER / f"{member}.safetensors")
                for member in values.get("members", ())
            ),
            detectors=Detectors.load(detectors_file) if detectors_file.is_file() else None,
            words=WordScores.load(words_file) if words_file.is_file() else None,
            vocabulary=Vocabulary.load(vocabulary_file) if vocabulary_file.is_file() else None,
        )


def prefix_of_run(folder: Path, values: Mapping[str, Any], said_in: str) -> Prefix:
    """The prefix in a run directory.

    Args:
        values: what ``said_in``, the run's JSON file, says; ``prefix_fingerprint`` among it.

    Raises:
        ArtifactError: it is missing or damaged, or not the one that the run was written with.
    """
    prefix = Prefix.load(folder / PREFIX_FILE)
    said = values.get("prefix_fingerprint", prefix.fingerprint)
    if said != prefix.fingerprint:
        raise ArtifactError(
            f"expected the prefix {said} of {said_in} in {folder}, got {prefix.fingerprint}, which "
            "was written there since; train into a folder of its own"
        )
    return prefix


def check_free(folder: str | Path) -> None:
    """That no run would be written over.

    Raises:
        ConfigError: ``folder`` holds one.
    """
    if (Path(folder) / RUN_FILE).exists():
        raise ConfigError(
            f"expected a new folder for a run, got {folder}, which holds one; give another --out, "
            "or remove it"
        )


def run_folder(name: str | Path) -> Path:
    """The folder of a run directory or of ``zoo:NAME``."""
    text = str(name)
    if not text.startswith("zoo:"):
        return Path(name)
    wanted = text.removeprefix("zoo:")
    if wanted not in zoo_names():
        raise unknown_name("run in the zoo", wanted, zoo_names())
    return ZOO / wanted


def zoo_names() -> list[str]:
    """The runs that come with the package."""
    return sorted(path.parent.name for path in ZOO.glob(f"*/{RUN_FILE}"))
