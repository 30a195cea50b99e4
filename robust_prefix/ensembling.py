"""Putting runs together: several prefixes on one base model in one run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from robust_prefix.defenses import DEFENSES, Ensemble, WrappingDefense
from robust_prefix.defenses.ensemble import check_together
from robust_prefix.defenses.voting import Combine
from robust_prefix.errors import ConfigError
from robust_prefix.runs import Run
from robust_prefix.specs import parse_composition


def ensemble_runs(runs: Sequence[Run], combine: Combine = "mean") -> Run:
    """A run with the prefixes of all ``runs``, the first of them its own.

    What the runs' default defences read texts with stands before the ensemble in its own default;
    subspaces are those of the first.

    Args:
        combine: see ``Ensemble``.

    Raises:
        ConfigError: there are not two different prefixes, the runs differ in base model, task, in
            what is read before the prefix, in synonym clusters or in vocabulary, or a method does
            not allow it.
    """
    prefixes = [prefix for run in runs for prefix in (run.prefix, *run.members)]
    if len({prefix.fingerprint for prefix in prefixes}) != len(prefixes) or len(prefixes) < 2:
        raise ConfigError(
            "expected two or more different prefixes, got "
            f"{', '.join(prefix.fingerprint for prefix in prefixes)}; name each run once"
        )
    check_alike(runs)
    check_together(prefixes)
    first, members = runs[0], tuple(prefixes[1:])
    own = Ensemble(members, combine=combine).spec
    return Run(
        task=first.task,
        prefix=first.prefix,
        subspaces=first.subspaces,
        synonyms=first.synonyms,
        defense="+".join([*_outer(first), own]),
        measurements={"members": [_measured(run) for run in runs]},
        members=members,
        detectors=first.detectors,
        words=first.words,
        vocabulary=first.vocabulary,
    )


def check_alike(runs: Sequence[Run], apart: Collection[str] = ()) -> None:
    """Raise ConfigError where runs differ in base model, task or what is read before.

    Args:
        apart: defences that each run has fitted to its own prefix, so that settings differ.
    """
    for what, values in (
        ("base model", [run.prefix.base_fingerprint for run in runs]),
        ("task", [run.task.to_dict() for run in runs]),
        ("defences before the prefix", [_outer(run, apart) for run in runs]),
        ("synonym clusters", [run.synonyms for run in runs]),
        ("vocabulary", [run.vocabulary for run in runs]),
    ):
        for number, value in enumerate(values):
            if value != values[0]:
                raise ConfigError(
                    f"expected runs that agree in {what}, got another in run {number + 1} than in "
                    "the first; put only like runs together"
                )


def _outer(run: Run, apart: Collection[str] = ()) -> list[str]:
    """What stands before the answering part of a run's default defence; the name alone of what is
    fitted ``apart``."""
    return [
        part.name if part.name in apart else str(part)
        for part in parse_composition(run.defense)
        if issubclass(DEFENSES[part.name], WrappingDefense)
    ]


def _measured(run: Run) -> dict[str, Any]:
    return {"prefix": run.prefix.fingerprint, **run.measurements}
