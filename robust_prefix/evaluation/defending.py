"""Which composition of defences suits a run: measured on dev, within a budget, under attack."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.data import rows_as_fields
from robust_prefix.defenses import Defense
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.accuracy import Accuracy
from robust_prefix.evaluation.formats import interval, percent
from robust_prefix.evaluation.names import distinct_names
from robust_prefix.evaluation.records import UNDEFENDED
from robust_prefix.evaluation.results import Results
from robust_prefix.evaluation.roc import as_json
from robust_prefix.evaluation.statistics import Estimate
from robust_prefix.files import read_json, write_json
from robust_prefix.progress import progress
from robust_prefix.specs import split_specs

if TYPE_CHECKING:
    from datasets import Dataset

CANDIDATES = (
    "normalize",
    "synonyms",
    "normalize+synonyms",
    "word-scores",
    "normalize+word-scores",
    "normalize+word-scores+synonyms",
    "projection",
    "robust-prefix(optimizer=polyak, steps=3)",
    "gate(share=0.1)+robust-prefix(optimizer=polyak, steps=3)",
    "masked-vote(copies=5, mask=0.4)",
    "detect(fpr=0.02)",
    "detect(fpr=0.02)+normalize",
    "detect(fpr=0.02)+normalize+synonyms",
)
"""What is tried where nothing else is asked for; those that a run has nothing fitted for are left
out."""


@dataclass(frozen=True)
class OnClean:
    """A candidate on clean dev texts.

    Attributes:
        accuracy: a refusal being wrong.
        abstained: how many texts were refused.
        cost: passes a text, over those of the undefended classifier.
    """

    accuracy: Accuracy
    abstained: int
    cost: float


@dataclass(frozen=True)
class Limits:
    """What a defence may cost.

    Attributes:
        budget: passes a text, over those of the undefended classifier.
        clean_loss: of the accuracy on clean text, 0 to 1.
    """

    budget: float
    clean_loss: float

    def objection(self, found: OnClean, plain: OnClean) -> str:
        """Why a candidate is out of the question; empty where it is not."""
        if found.cost > self.budget * (1 + 1e-6):
            return "over the budget"
        if plain.accuracy.value - found.accuracy.value > self.clean_loss + 1e-9:
            return "loses too much on clean text"
        return ""


@dataclass(frozen=True)
class Choice:
    """What was measured, and what follows.

    Attributes:
        clean: by spec, every candidate's clean texts, ``none`` among them.
        objections: by spec; empty where the candidate was attacked.
        robust: by spec, of those that were attacked, and then by attack.
        chosen: the spec that holds best against the attack that it holds worst against; of equals
            the best on average, then the cheapest, then the first.
    """

    clean: Mapping[str, OnClean]
    objections: Mapping[str, str]
    robust: Mapping[str, Mapping[str, Estimate]]
    chosen: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values, rounded."""
        return {
            "chosen": self.chosen,
            "candidates": [
                {
                    "defense": spec,
                    "clean_accuracy": found.accuracy.to_dict(),
                    "abstained": found.abstained,
                    "cost": round(found.cost, 6),
                    "robust_accuracy": {
                        attack: as_json(held) for attack, held in self.robust[spec].items()
                    }
                    if spec in self.robust
                    else None,
                    "objection": self.objections[spec],
                }
                for spec, found in self.clean.items()
            ],
        }


def limits(budget: str, clean_loss: float) -> Limits:
    """From what a user types: the budget as ``2x`` or ``2``.

    Raises:
        ConfigError: the budget is no number of 1 or more, or the loss not inside [0, 1].
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*x?\s*", budget)
    if match is None or float(match[1]) < 1:
        raise ConfigError(f"expected a budget of 1x or more, such as 2x, got {budget!r}")
    if not 0 <= clean_loss <= 1:
        raise ConfigError(f"expected a clean-accuracy loss of 0 to 1, got {clean_loss}")
    return Limits(float(match[1]), clean_loss)


def candidates(
    asked: str | None, build: Callable[[str], Defense[Any]]
) -> tuple[dict[str, Defense[Any]], dict[str, str]]:
    """The candidates by their canonical specs, and why some are left out.

    Args:
        asked: specs with commas between them; ``CANDIDATES`` where not given, of which those are
            left out that something has to be fitted for first.
        build: a defence from its name and settings.

    Raises:
        ConfigError, ArtifactError: what was asked for cannot be built.
    """
    found: dict[str, Defense[Any]] = {}
    left_out: dict[str, str] = {}
    for spec in CANDIDATES if asked is None else split_specs(asked, ","):
        try:
            defense = build(spec.strip())
        except (ArtifactError, ConfigError) as error:
            if asked is not None:
                raise
            left_out[spec] = str(error)
            continue
        if defense.spec != UNDEFENDED:
            found[defense.spec] = defense
    if not found:
        raise ConfigError(
            f"expected at least one candidate, got none of {list(left_out) or asked!r}"
        )
    return found, left_out


def measure_clean(
    classifier: PrefixClassifier,
    rows: Dataset,
    tested: Mapping[str, Defense[Any]],
    path: Path,
    about: Mapping[str, Any],
) -> dict[str, OnClean]:
    """Every candidate on clean texts; what is in the file at ``path`` is not measured again.

    Args:
        about: what the numbers depend on; kept in the file.

    Raises:
        ConfigError: the file is about something else.
        StorageError: it cannot be written.
    """
    stored: dict[str, Any] = read_json(path) if path.is_file() else {"about": dict(about)}
    if stored.get("about") != dict(about):
        raise ConfigError(
            f"expected {dict(about)} as in {path}, got {stored.get('about')}; choose another folder"
        )
    fields, labels = rows_as_fields(classifier.task, rows), list(rows["label"])
    numbers: dict[str, list[float]] = stored.setdefault("clean", {})
    everyone = {UNDEFENDED: classifier.build_defense(UNDEFENDED), **tested}
    with progress("clean text", len(everyone)) as advance:
        for done, (spec, defense) in enumerate(everyone.items(), 1):
            if spec not in numbers:
                defense.cost.reset()
                decisions = defense.decide(classifier.model, fields)
                correct = sum(p == y for p, y in zip(decisions.labels, labels, strict=True))
                passes = (defense.cost.forward + defense.cost.backward) / len(fields)
                numbers[spec] = [correct, int(decisions.abstained.sum()), passes]
                write_json(path, stored)
            advance(done, "")
    plain = numbers[UNDEFENDED][2]
    return {
        spec: OnClean(
            Accuracy(int(numbers[spec][0]), len(labels)),
            int(numbers[spec][1]),
            numbers[spec][2] / plain,
        )
        for spec in everyone
    }


def objections(clean: Mapping[str, OnClean], limits: Limits) -> dict[str, str]:
    """Why each candidate is out of the question, or an empty text."""
    plain = clean[UNDEFENDED]
    return {spec: limits.objection(found, plain) for spec, found in clean.items()}


def choose(clean: Mapping[str, OnClean], limits: Limits, results: Sequence[Results]) -> Choice:
    """The candidate within the limits that holds best, see ``Choice``.

    Args:
        results: of each attack on those within the limits.
    """
    robust = {
        spec: {
            each.manifest.attack: each.summary.row(spec, each.manifest.protocol).robust_accuracy
            for each in results
        }
        for spec in (UNDEFENDED, *results[0].manifest.defenses)
    }

    def merit(spec: str) -> tuple[float, float, float]:
        held = [estimate.value or 0 for estimate in robust[spec].values()]
        return min(held), sum(held) / len(held), -clean[spec].cost

    return Choice(dict(clean), objections(clean, limits), robust, max(robust, key=merit))


def choice_table(choice: Choice) -> RenderableType:
    """Every candidate for ``rich``, the chosen one in green."""
    names = distinct_names(choice.clean)
    attacks = distinct_names(choice.robust[UNDEFENDED])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("defence", overflow="fold", vertical="bottom")
    for name in ("clean", "refused", "cost", *attacks.values(), ""):
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for spec, found in choice.clean.items():
        robust = choice.robust.get(spec)
        style = "bold green" if spec == choice.chosen else ""
        table.add_row(
            Text(names[spec], style=style),
            percent(found.accuracy.value),
            percent(found.abstained / found.accuracy.n),
            f"{found.cost:.1f}x",
            *(_held(robust[attack] if robust else None, style) for attack in attacks),
            Text(choice.objections[spec], style="dim"),
        )
    return table


def _held(robust: Estimate | None, style: str) -> Text:
    """Robust accuracy, its interval below."""
    if robust is None:
        return Text("-")
    return Text.assemble((percent(robust.value), style), "\n", (interval(robust), "dim"))
