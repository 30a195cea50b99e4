"""One row of an evaluation, and the manifest that says what the rows of a run have in common."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.tasks import Fields

Role = Literal["undefended", "defense", "control"]
RowProtocol = Literal["direct", "adaptive", "replay"]
Outcome = Literal["succeeded", "failed", "skipped", "error"]

UNDEFENDED = "none"
"""Spec of the defence that is none."""

RECORDED = "recorded"
"""The setting that holds the hash of a recorded attack; other attacks have none."""

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
        protocol: whether the attack queried this system, knowing what it hides or not, or its
            adversary was replayed to it.
        example: row of the example in the test split.
        seed: seed of the run.
        label: number of the true class.
        original: text columns as they were.
        adversarial: text columns as the attack reported them; None where there is no adversary.
        prediction_original: class given to the original; None where it could not be had, or the
            system refused to answer.
        prediction_adversarial: class given to the adversary by a query of its own; the same.
        margin_original: logit of the true class minus the best other, at the original.
        margin_adversarial: the same at the adversary.
        queries: queries as the attack counts them; 0 for a replay.
        model_queries: texts the model was really asked about, verification included.
        forward_passes: full forward passes of the model, times examples.
        backward_passes: the same for backward passes.
        seconds: wall-clock time.
        outcome: ``succeeded`` the system was fooled; ``failed`` it held, or refused to answer;
            ``skipped`` it was wrong, or refused, before any attack; ``error`` something crashed.
        message: traceback of an error, or a note; usually empty.
        prediction_forward_passes: of ``forward_passes`` those of the first answer, to the original
            alone; what an attack asks afterwards may share work. None where there was no answer.
        prediction_backward_passes: the same for backward passes.
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
    prediction_forward_passes: float | None = None
    prediction_backward_passes: float | None = None

    @property
    def key(self) -> Key:
        """What identifies this record."""
        return Key(*(getattr(self, name) for name in Key._fields))

    @property
    def held(self) -> bool:
        """Right before the attack and still right after it, whenever it was asked."""
        return self.outcome == "failed" and not self.unverified

    @property
    def abstained_original(self) -> bool:
        """The system was asked about the original and refused to answer."""
        return self.prediction_original is None and self.margin_original is not None

    @property
    def abstained_adversarial(self) -> bool:
        """The system was asked about the adversary and refused to answer."""
        return self.prediction_adversarial is None and self.margin_adversarial is not None

    @property
    def attacked(self) -> bool:
        """Whether the attack could show anything: right before it, and nothing crashed."""
        return self.outcome in ("succeeded", "failed")

    @property
    def unverified(self) -> bool:
        """The attack reported an adversary which did not fool the system when asked again."""
        return (
            self.protocol != "replay" and self.outcome == "failed" and self.adversarial is not None
        )

    @property
    def note(self) -> str:
        """The message's last line without memory addresses: the same for equal runs."""
        lines = self.message.strip().splitlines()
        return _ADDRESS.sub("0x", lines[-1]) if lines else ""


@dataclass(frozen=True)
class Manifest:
    """Everything that defines one cell: two cells with equal manifests have equal records.

    A cell is one run directory, one attack and one seed, with any number of defences and
    protocols; an evaluation is one cell or a matrix of them.

    Attributes:
        task: name of the task.
        columns: names of its text columns.
        labels: names of its classes.
        model: name of the frozen model.
        prefix: fingerprint of the trained prefix.
        attack: canonical spec of the attack.
        seed: seed of the cell.
        n: number of examples.
        test_fingerprint: hash of the rows the examples were drawn from.
        defenses: canonical specs of the defences under test; ``none`` is in every cell unasked.
        protocols: ``replay``, ``direct``, ``adaptive``, ``worst``: what was asked for, in that
            order.
        hiding: those of the systems whose scores hide something, see ``Defense.hides_scores``.
        controls: by defence, the canonical specs of its random controls, one a control seed.
        settings: anything else that results depend on, such as the dtype.
    """

    task: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    model: str
    prefix: str
    attack: str
    seed: int
    n: int
    test_fingerprint: str
    defenses: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ("worst",)
    hiding: tuple[str, ...] = ()
    controls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tells this cell from the others of its matrix; key of what is stored about it."""
        return cell_name(self.task, self.model, self.prefix, self.attack, self.seed)

    def rows_of(self, defense: str) -> tuple[RowProtocol, ...]:
        """The records a system gets at each example.

        The undefended one is attacked whatever was asked for: its adversaries are replayed. Those
        of a recorded attack are shown to it too. An adaptive attack on what hides nothing is the
        direct one.
        """
        if defense == UNDEFENDED:
            return ("replay",) if RECORDED in self.settings else ("direct",)
        hides = defense in self.hiding
        asked: dict[RowProtocol, set[str]] = {
            "replay": {"replay", "worst"},
            "direct": {"direct", "worst"} if hides else {"direct", "adaptive", "worst"},
            "adaptive": {"adaptive", "worst"} if hides else set(),
        }
        return tuple(row for row, names in asked.items() if names & set(self.protocols))

    def searches(self, defense: str) -> list[RowProtocol]:
        """Those of ``rows_of`` under which the attack asks the system itself."""
        return [protocol for protocol in self.rows_of(defense) if protocol != "replay"]

    def hides(self, defense: str, control_of: str | None = None) -> bool:
        """Whether the scores of a row's system hide something: of a defence, or of the controls of
        one, which may stand in a row together."""
        specs = self.controls.get(control_of or "", (defense,))
        return any(spec in self.hiding for spec in specs)

    @property
    def total(self) -> int:
        """How many records there are once all is done."""
        return self.n * sum(len(self.rows_of(defense)) for defense in self.systems)

    @property
    def systems(self) -> dict[str, Role]:
        """The role of each defence by its spec: undefended first, each control once."""
        found: dict[str, Role] = {UNDEFENDED: "undefended"}
        found |= dict.fromkeys(self.defenses, "defense")
        for specs in self.controls.values():
            found |= dict.fromkeys(specs, "control")
        return found

    @property
    def tested(self) -> str:
        """The defence that a headline is about: the first under test, or ``none``."""
        return self.defenses[0] if self.defenses else UNDEFENDED

    @property
    def protocol(self) -> str:
        """The protocol that a headline is about: the strictest. Of several it is worst, but for
        a direct attack and an adaptive one where nothing is hidden, which are the same."""
        differ = "replay" in self.protocols or bool(self.hiding)
        return "worst" if len(self.protocols) > 1 and differ else self.protocols[-1]

    def key(self, defense: str, protocol: RowProtocol, example: int) -> Key:
        """The key of one record of this cell."""
        return Key(
            self.task,
            self.model,
            self.prefix,
            self.attack,
            defense,
            protocol,
            example,
            self.seed,
        )

    def probe_key(self, defense: str) -> str:
        """Under which the checks of a system are stored; its cells on the same texts share them."""
        gradients = " gradients" if self.settings.get("threat.knowledge") == "gradient" else ""
        texts = f"{self.test_fingerprint} n={self.n} seed={self.seed}"
        return f"{self.task} {self.model} {self.prefix} {defense} {texts}{gradients}"

    def state_key(self, defense: str, protocol: RowProtocol = "direct") -> str:
        """Under which it is stored what a universal attack found against a system."""
        return f"{self.name} {defense}" + ("" if protocol == "direct" else f" {protocol}")

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
            values: dict[str, Any] = {"hiding": (), **json.loads(text)}  # absent in older runs
            for name in ("columns", "labels", "defenses", "protocols", "hiding"):
                values[name] = tuple(values[name])
            values["controls"] = {name: tuple(of) for name, of in values["controls"].items()}
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(f"expected the manifest of a run, got {error}") from error

    def flat(self) -> dict[str, Any]:
        """The fields in order, ``controls`` and ``settings`` spread out under dotted names."""
        values = dataclasses.asdict(self)
        for name in ("controls", "settings"):
            spread = values.pop(name)
            values |= {f"{name}.{key}": spread[key] for key in sorted(spread)}
        return values


def cell_name(task: str, model: str, prefix: str, attack: str, seed: int) -> str:
    """``Manifest.name`` of a cell whose manifest is not to be had, for want of its attack."""
    return f"{task} {model} {prefix} {attack} seed={seed}"


def require_same(stored: Sequence[Manifest], asked: Sequence[Manifest], place: str) -> None:
    """Check that a run may go on in the file of another: it has all its cells, unchanged.

    Raises:
        ConfigError: a stored cell differs or is not asked for any more, or one is asked for twice.
    """
    by_name = {cell.name: cell for cell in asked}
    if len(by_name) != len(asked):
        raise ConfigError(
            f"expected each cell once, got {[cell.name for cell in asked]}; "
            "name each run, attack and seed once"
        )
    known = {cell.name for cell in stored}
    new = [cell for cell in asked if cell.name not in known]
    for cell in stored:
        other = by_name.get(cell.name, new[0] if new else None)
        if other is None:
            raise ConfigError(
                f"expected the cell {cell.name!r} as in {place}, got a matrix "
                "without it; choose another folder or the same settings"
            )
        _require_equal(cell.flat(), Manifest.from_json(other.to_json()).flat(), place)


def _require_equal(stored: dict[str, Any], asked: dict[str, Any], place: str) -> None:
    for name in [*asked, *(name for name in stored if name not in asked)]:
        if asked.get(name) != stored.get(name):
            raise ConfigError(
                f"expected {name} {stored.get(name)!r} as in {place}, "
                f"got {asked.get(name)!r}; choose another folder or the same settings"
            )
