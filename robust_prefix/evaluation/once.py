"""What is computed once for many records: checks of a system, and one change for all texts.

Values are plain JSON, for they are kept in the store.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from robust_prefix.evaluation import checks
from robust_prefix.evaluation.protocols import Attempt, Example, UniversalAttack, Victim
from robust_prefix.evaluation.records import Manifest, RowProtocol
from robust_prefix.evaluation.trial import STOPS_THE_RUN, CountingVictim, Perturb, System, seed_of
from robust_prefix.tasks import Fields


def probe(
    system: System, examples: Sequence[Example], others: Sequence[Example], manifest: Manifest
) -> dict[str, Any]:
    """What the checks find, see ``checks.probe``; gradients where the attack reads them."""
    return checks.probe(
        system.classifier,
        examples,
        manifest.seed,
        others=others,
        gradients=manifest.settings.get("threat.knowledge") == "gradient",
    )


def fit(
    system: System,
    attack: UniversalAttack,
    examples: Sequence[Example],
    manifest: Manifest,
    protocol: RowProtocol = "direct",
) -> dict[str, Any]:
    """Search for the one change against a system.

    Args:
        examples: of the training split.
        protocol: ``direct`` or ``adaptive``.

    Returns:
        ``state`` as the attack wrote it, and what the search cost: ``queries``,
        ``forward_passes`` and ``backward_passes``; if it crashed, its traceback as ``error``.
    """
    victim = CountingVictim(system.classifier, revealed=protocol == "adaptive")
    seed = seed_of(manifest.state_key(system.defense))  # an adaptive search draws as a direct one
    cost = system.classifier.defense.cost
    cost.reset()
    try:
        found = {"state": attack.fit(victim, examples, seed)}
    except STOPS_THE_RUN:
        raise
    except Exception:  # as with the crash of one example, see trial.py
        found = {"error": traceback.format_exc()}
    return found | {
        "queries": victim.queries,
        "forward_passes": float(cost.forward),
        "backward_passes": float(cost.backward),
    }


def fitted(attack: UniversalAttack, state: Mapping[str, Any]) -> Perturb:
    """The attack on single examples with what ``fit`` found; crashes at each if that crashed."""
    if "error" not in state:
        return attack.fitted(state["state"]).perturb

    def crash(victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        raise RuntimeError(f"the search for one change for all texts crashed: {state['error']}")

    return crash
