"""One row of an evaluation, and the manifest that says what the rows of a run have in common."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from robust_prefix.errors import ArtifactError
from robust_prefix.tasks import Fields

Role = Literal["undefended", "defense", "control"]
RowProtocol = Literal["direct", "replay"]
Outcome = Literal["succeeded", "failed", "skipped", "error"]

ROLES: tuple[Role, ...] = ("undefended", "defense", "control")
OUTCOMES: tuple[Outcome, ...] = ("succeeded", "failed", "skipped", "error")

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")

Setting = str | int | float | bool | None


class Key(NamedTuple):
    """What identifies a record; a store holds at most one record for each key."""

    task: str
    model: str
    prefix: str
    attack: str
    defense: str
    protocol: str
    example: int
    seed: int


@dataclass(frozen=True)
class Record:
    """What one attack did to one example under one defence.

    Attributes:
        task: name of the task.
        model: name of the frozen model.
        prefix: fingerprint of the trained prefix.
        attack: canonical spec of the attack, every setting included.
        defense: canonical spec of the defence.
        role: what the system is there for.
        dynamic: whether the defence optimises at inference.
        protocol: whether the attack queried this system or its adversary was replayed to it.
        example: row of the example in the test split.
        seed: seed of the run.
        label: number of the true class.
        original: text columns as they were.
        adversarial: text columns as the attack reported them; None where there is no adversary.
        prediction_original: class given to the original; None where it could not be had.
        prediction_adversarial: class given to the adversary by a query of its own.
        margin_original: logit of the true class minus the best other, at the original.
        margin_adversarial: the same at the adversary.
        queries: queries as the attack counts them; 0 for a replay.
        model_queries: texts the model was really asked about, verification included.
        forward_passes: full forward passes of the model, times examples.
        backward_passes: the same for backward passes.
        seconds: wall-clock time.
        outcome: ``succeeded`` the system was fooled; ``failed`` it held; ``skipped`` it was wrong
            before any attack; ``error`` something crashed.
        message: traceback of an error, or a note; usually empty.
    """

    task: str
    model: str
    prefix: str
    attack: str
    defense: str
    role: Role
    dynamic: bool
    protocol: RowProtocol
    example: int
    seed: int
    label: int
    original: Fields
    adversarial: Fields | None
    prediction_original: int | None
    prediction_adversarial: int | None
    margin_original: float | None
    margin_adversarial: float | None
    queries: int
    model_queries: int
    forward_passes: float
    backward_passes: float
    seconds: float
    outcome: Outcome
    message: str = ""

    @property
    def key(self) -> Key:
        """What identifies this record."""
        return Key(*(getattr(self, name) for name in Key._fields))

    @property
    def held(self) -> bool:
        """Right before the attack and still right after it, whenever it was asked."""
        return self.outcome == "failed" and not self.unverified

    @property
    def attacked(self) -> bool:
        """Whether the attack could show anything: right before it, and nothing crashed."""
        return self.outcome in ("succeeded", "failed")

    @property
    def unverified(self) -> bool:
        """The attack reported an adversary which did not fool the system when asked again."""
        return (
            self.protocol == "direct" and self.outcome == "failed" and self.adversarial is not None
        )

    @property
    def note(self) -> str:
        """The message's last line without memory addresses: the same for equal runs."""
        lines = self.message.strip().splitlines()
        return _ADDRESS.sub("0x", lines[-1]) if lines else ""


@dataclass(frozen=True)
class Manifest:
    """Everything that defines a run: two runs with equal manifests have equal records.

    Attributes:
        task: name of the task.
        columns: names of its text columns.
        labels: names of its classes.
        model: name of the frozen model.
        prefix: fingerprint of the trained prefix.
        attack: canonical spec of the attack.
        defense: canonical spec of the defence under test.
        protocol: ``replay``, ``direct`` or ``worst``.
        n: number of examples.
        seed: seed of the run.
        test_fingerprint: hash of the test split the examples were drawn from.
        control: canonical spec of the equal-norm control, where there is one.
        control_rms: root mean square of the control's noise.
        settings: anything else that results depend on, such as the dtype.
    """

    task: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    model: str
    prefix: str
    attack: str
    defense: str
    protocol: str
    n: int
    seed: int
    test_fingerprint: str
    control: str | None = None
    control_rms: float | None = None
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest as one line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The manifest that ``to_json`` wrote.

        Raises:
            ArtifactError: the text is no manifest of this version.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            for name in ("columns", "labels"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(f"expected the manifest of a run, got {error}") from error

    def flat(self) -> dict[str, Any]:
        """The fields in order, ``settings`` spread out under dotted names."""
        values = dataclasses.asdict(self)
        settings = values.pop("settings")
        return values | {f"settings.{name}": settings[name] for name in sorted(settings)}
