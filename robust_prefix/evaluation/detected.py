"""How well the detectors of a run tell the adversaries of attacks from clean text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robust_prefix.detection import Detectors, Seen, see
from robust_prefix.evaluation.formats import percent
from robust_prefix.evaluation.names import short_name
from robust_prefix.evaluation.protocols import Example
from robust_prefix.evaluation.records import UNDEFENDED, Record
from robust_prefix.evaluation.roc import (
    COVERAGES,
    Selective,
    area_under_risk,
    as_json,
    auroc,
    exceeding,
    selective,
)
from robust_prefix.evaluation.statistics import Estimate
from robust_prefix.prefixes import PrefixModel
from robust_prefix.specs import parse_composition
from robust_prefix.tasks import Fields

RATES = (0.01, 0.05)
"""False-positive rates that detection is told at."""

_SHOWN = (1.0, 0.95, 0.9, 0.8, 0.5)


@dataclass(frozen=True)
class Adversaries:
    """What one attack made of a system's texts.

    Attributes:
        attack: its spec.
        defense: spec of the system that it attacked.
        protocol: ``direct``, or ``adaptive`` where it also saw what the system hides.
        texts: those that fooled the system, each pair of original and adversary once.
    """

    attack: str
    defense: str
    protocol: str
    texts: tuple[Fields, ...]

    @property
    def knowing(self) -> str | None:
        """The score that the attack had to get past; None where it knew of no detector."""
        for part in parse_composition(self.defense):
            if part.name == "detect":
                return part.settings.get("score")
        return None


@dataclass(frozen=True)
class Detection:
    """A score against the adversaries of one attack.

    Attributes:
        score: its name.
        adversaries: whose.
        n: how many adversaries there are.
        auroc: against the clean texts.
        rates: by the false-positive rate chosen on dev, the share that is detected.
    """

    score: str
    adversaries: Adversaries
    n: int
    auroc: Estimate
    rates: Mapping[float, Estimate]


@dataclass(frozen=True)
class Clean:
    """A score on clean text that it was neither fitted on nor calibrated on.

    Attributes:
        score: its name.
        thresholds: by the false-positive rate chosen on dev.
        rates: by that rate, the share of the clean texts that is refused.
        coverage: what answering only some of the texts comes to.
        risk: the mean error over all coverages.
    """

    score: str
    thresholds: Mapping[float, float]
    rates: Mapping[float, Estimate]
    coverage: tuple[Selective, ...]
    risk: float | None


def adversaries_in(records: Iterable[Record]) -> list[Adversaries]:
    """What fooled the system that was attacked itself, by attack, system and protocol."""
    found: dict[tuple[str, str, str], dict[tuple[Fields, Fields], None]] = {}
    for record in records:
        if record.protocol == "replay" or record.role == "control":
            continue
        texts = found.setdefault((record.attack, record.defense, record.protocol), {})
        if record.outcome == "succeeded" and record.adversarial is not None:
            texts[record.original, record.adversarial] = None
    return [
        Adversaries(*key, tuple(adversary for _, adversary in pairs))
        for key, pairs in found.items()
    ]


def measure_detection(
    model: PrefixModel,
    detectors: Detectors,
    clean: Sequence[Example],
    attacked: Sequence[Adversaries],
    rates: Sequence[float] = RATES,
    batch_size: int = 32,
) -> tuple[list[Clean], list[Detection]]:
    """Every fitted score on clean texts, and against each attack's adversaries.

    Args:
        clean: texts of the test split.
        attacked: see :func:`adversaries_in`.
        rates: false-positive rates; those that dev is too small for are left out.
    """
    layers = sorted({j for each in detectors.scores.values() for j in each.score.layers})

    def look(texts: Sequence[Fields]) -> Seen:
        return see(model, texts, layers, batch_size)

    plain = look([example.fields for example in clean])
    labels = [example.label for example in clean]
    right = [p == y for p, y in zip(plain.logits.argmax(-1).tolist(), labels, strict=True)]
    seen = [(each, look(each.texts)) for each in attacked if each.texts]
    on_clean, against = [], []
    for name, calibrated in detectors.scores.items():
        possible = [rate for rate in rates if rate * (len(calibrated.clean) + 1) >= 1]
        thresholds = {rate: calibrated.threshold(rate) for rate in possible}
        scores = calibrated.score(plain).numpy()
        on_clean.append(
            Clean(
                name,
                thresholds,
                {rate: exceeding(scores, limit) for rate, limit in thresholds.items()},
                tuple(selective(scores, right)),
                area_under_risk(scores, right),
            )
        )
        for each, shown in seen:
            found = calibrated.score(shown).numpy()
            detected = {rate: exceeding(found, limit) for rate, limit in thresholds.items()}
            against.append(Detection(name, each, len(found), auroc(scores, found), detected))
    return on_clean, against


def detection_summary(clean: Sequence[Clean], against: Sequence[Detection]) -> dict[str, Any]:
    """JSON values."""
    return {
        "clean": [
            {
                "score": each.score,
                "thresholds": {str(rate): limit for rate, limit in each.thresholds.items()},
                "refused": {str(rate): as_json(found) for rate, found in each.rates.items()},
                "selective": [
                    {"coverage": round(at.coverage, 6), "accuracy": as_json(at.accuracy)}
                    for at in each.coverage
                ],
                "area_under_risk": None if each.risk is None else round(each.risk, 6),
            }
            for each in clean
        ],
        "adversaries": [
            {
                "score": each.score,
                "attack": each.adversaries.attack,
                "defense": each.adversaries.defense,
                "protocol": each.adversaries.protocol,
                "knowing": each.adversaries.knowing,
                "n": each.n,
                "auroc": as_json(each.auroc),
                "detected": {str(rate): as_json(found) for rate, found in each.rates.items()},
            }
            for each in against
        ],
    }


def detection_tables(clean: Sequence[Clean], against: Sequence[Detection]) -> RenderableType:
    """Scores on clean text, then against each attack; for a terminal of 80 columns, so that some
    intervals and coverages are in ``detection_summary`` alone."""
    rates = sorted({rate for each in clean for rate in each.thresholds})
    shown = _table("clean text", *(f"refused\nat {percent(rate)}" for rate in rates))
    for coverage in _SHOWN:
        shown.add_column(f"right\nof {coverage:.0%}", justify="right", no_wrap=True)
    for each in clean:
        refused = [_share(each.rates.get(rate)) for rate in rates]
        at = dict(zip(COVERAGES, each.coverage, strict=True))
        answered = [percent(at[coverage].accuracy.value) for coverage in _SHOWN]
        shown.add_row(each.score, *refused, *answered)
    parts: list[RenderableType] = [shown]
    for adversaries in dict.fromkeys(map(_place, against)):
        found = [each for each in against if _place(each) == adversaries]
        table = _table(
            f"{found[0].n} adversaries", "AUROC", *(f"found\nat {percent(rate)}" for rate in rates)
        )
        for entry in found:
            area = "-" if entry.auroc.value is None else f"{entry.auroc.value:.3f}"
            told = f"{area} ({entry.auroc.low:.2f} to {entry.auroc.high:.2f})"
            found_at = [_share(entry.rates.get(rate)) for rate in rates]
            table.add_row(entry.score, told, *found_at)
        attack, defense, protocol = adversaries
        knows = found[0].adversaries.knowing
        about = "undefended" if defense == UNDEFENDED else short_name(defense)
        told = f"knows of the score {knows}" if knows else "knows of no detector"
        told += ", sees what is hidden" if protocol == "adaptive" else ""
        parts += [Text(f"\n{short_name(attack)} against {about}, {told}", style="bold"), table]
    return Group(*parts)


def _place(detection: Detection) -> tuple[str, str, str]:
    of = detection.adversaries
    return of.attack, of.defense, of.protocol


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, vertical="bottom", no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    return table


def _share(estimate: Estimate | None) -> str:
    return "-" if estimate is None else percent(estimate.value)
