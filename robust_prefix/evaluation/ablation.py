"""What each part of a composition contributes: the composition beside those without one part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robust_prefix.defenses import Defense
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.cells import Cells, group, held_on_shared
from robust_prefix.evaluation.flags import SIGNIFICANCE
from robust_prefix.evaluation.formats import interval, percent
from robust_prefix.evaluation.names import short_name
from robust_prefix.evaluation.results import Results
from robust_prefix.evaluation.roc import as_json
from robust_prefix.evaluation.statistics import Estimate, mcnemar, paired_difference, wilson
from robust_prefix.evaluation.summary import SummaryRow
from robust_prefix.specs import parse_composition


@dataclass(frozen=True)
class Remainder:
    """A composition without one of its parts.

    Attributes:
        part: the spec of what was left out.
        defense: what is left; None where that is no defence.
        reason: why it is none.
    """

    part: str
    defense: Defense[Any] | None
    reason: str = ""


def without_each(spec: str, build: Callable[[str], Defense[Any]]) -> list[Remainder]:
    """A composition without each of its parts, the outermost first; ``none`` without its only one.

    Args:
        spec: canonical, so that a part's settings, such as a threshold, stay what they are.
        build: see ``PrefixClassifier.build_defense``.
    """
    parts = parse_composition(spec)
    found = []
    for place, part in enumerate(parts):
        left = "+".join(str(other) for other in (*parts[:place], *parts[place + 1 :])) or "none"
        try:
            found.append(Remainder(str(part), build(left)))
        except (ConfigError, ArtifactError) as error:  # a gate, say, with nothing behind it
            found.append(Remainder(str(part), None, str(error)))
    return found


@dataclass(frozen=True)
class Contribution:
    """What a composition loses without one part.

    Attributes:
        part: its spec.
        without: the spec of what is left; None where that is no defence.
        robust: robust accuracy of what is left.
        gain: of the full composition's robust accuracy over that, paired by example.
        clean_gain: the same of accuracy on the originals.
        p_value: of McNemar's exact test that both hold equally often.
        cost: passes a prediction that the part adds.
        reason: why there is nothing to compare with.
    """

    part: str
    without: str | None
    robust: Estimate = field(default_factory=lambda: wilson(0, 0))
    gain: Estimate = field(default_factory=lambda: wilson(0, 0))
    clean_gain: Estimate = field(default_factory=lambda: wilson(0, 0))
    p_value: float | None = None
    cost: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, rounded."""
        return {
            "part": self.part,
            "without": self.without,
            "robust_accuracy": as_json(self.robust),
            "gain": as_json(self.gain),
            "clean_gain": as_json(self.clean_gain),
            "p_value": self.p_value,
            "cost": None if self.cost is None else round(self.cost, 6),
            "reason": self.reason,
        }


def contributions(results: Results, full: str, left: Sequence[Remainder]) -> list[Contribution]:
    """The contribution of each part at the strictest protocol that was run.

    Args:
        results: of a cell in which the composition and all that is left of it were tested.
        full: the composition's spec.
        left: see :func:`without_each`.

    Raises:
        ConfigError: one of them was not tested.
    """
    protocol = results.manifest.protocol
    row, cells = results.summary.row(full, protocol), _cells(results, full, protocol)
    found = []
    for remainder in left:
        if remainder.defense is None:
            found.append(Contribution(remainder.part, None, reason=remainder.reason))
            continue
        spec = remainder.defense.spec
        rival, others = results.summary.row(spec, protocol), _cells(results, spec, protocol)
        held, held_without = held_on_shared(cells, others)
        shared = [example for example in cells if example in others]
        clean = [[mine[e].clean for e in shared] for mine in (cells, others)]
        found.append(
            Contribution(
                part=remainder.part,
                without=spec,
                robust=rival.robust_accuracy,
                gain=paired_difference(held, held_without),
                clean_gain=paired_difference(*clean),
                p_value=mcnemar(held, held_without),
                cost=_difference(row, rival),
            )
        )
    return found


def contributions_table(
    results: Results, full: str, found: Sequence[Contribution]
) -> RenderableType:
    """Each part for ``rich``, the full composition above them."""
    row = results.summary.row(full, results.manifest.protocol)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("left out", overflow="fold", vertical="bottom")
    for name in ("robust\nwithout", "gain,\npoints", "95%\ninterval", "p", "clean,\npoints"):
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    table.add_column("passes\nadded", justify="right", no_wrap=True)
    for each in found:
        if each.without is None:
            table.add_row(Text(short_name(each.part)), *["-"] * 6)
            continue
        style = ""
        if each.p_value is not None and each.p_value <= SIGNIFICANCE:
            style = "bold green" if (each.gain.value or 0) > 0 else "bold red"
        table.add_row(
            Text(short_name(each.part)),
            percent(each.robust.value),
            Text(_points(each.gain), style=style),
            interval(each.gain),
            "-" if each.p_value is None else f"{each.p_value:.2g}",
            _points(each.clean_gain),
            "-" if each.cost is None else f"{each.cost:+.1f}",
        )
    title = Text.assemble(
        "\nEach part of ",
        (short_name(full), "bold"),
        f", which holds {percent(row.robust_accuracy.value)}",
    )
    reasons = [Text(f"{each.part}: {each.reason}", style="dim") for each in found if each.reason]
    return Group(title, table, *reasons)


def _cells(results: Results, spec: str, protocol: str) -> Cells:
    """Those of one system; the undefended one has but one protocol, which stands for all."""
    [protocols] = [
        protocols
        for (role, defense), protocols in group(results.records).items()
        if defense == spec and role != "control"
    ]
    found: Mapping[str, Cells] = protocols
    return found[protocol] if protocol in found else next(iter(found.values()))


def _difference(row: SummaryRow, rival: SummaryRow) -> float | None:
    costs = (row.costs.prediction, rival.costs.prediction)
    return None if costs[0] is None or costs[1] is None else costs[0] - costs[1]


def _points(estimate: Estimate) -> str:
    return "-" if estimate.value is None else f"{100 * estimate.value:+.1f}"
