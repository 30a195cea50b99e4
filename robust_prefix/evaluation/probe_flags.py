"""What the checks of a system found, turned into flags; each limit with what it was measured on.

"Measured" is on the SST-2 prefix of the zoo, in bfloat16 and float32 on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

Probe = Mapping[str, Any]
"""What ``checks.probe`` returned."""

SAME_ANSWER = 1e-3
"""Logits. One text asked about twice on one machine: measured 0 for every defence of ours."""

ROUNDING_SHARE = 0.15
"""Of a system's median margin, what rounding may do to a text in other company. Measured in
bfloat16, where the median is 3.7: 0.17 undefended, 0.18 with robust-prefix, 5.7 in its mode batch;
in float32: 0.00001, 0.001 and 5.6."""

ROUNDING_FACTOR = 4.0
"""So many times what company does to the undefended model is rounding, too."""

NOISE_FACTOR = 2.0
"""A system that changes from run to run depends on its company only beyond so much of that."""

FEW_SCORES = 0.25
"""Different scores a text, below which most texts share theirs. Measured 1."""

SATURATED = 0.25
"""Share of texts at probability 1. Measured 0."""

VANISHING = 1e-6
"""A gradient so much smaller than the undefended model's is none. Measured 0.03 and more."""

MEMORY_P_VALUE = 1e-4
"""Each of the eight tests for a memory finds one by chance in at most so many systems. Measured on
1,000 draws of 32 and 32 texts: no alarm undefended or with projection, one with random-prefix and
one with robust-prefix."""

INNOCENT_P_VALUE = 1e-2
"""What the undefended model shows below this is a difference of the texts, and no memory."""

KEPT_SHARE = 0.9
"""Share of texts, in every class, that are answered right though a third of their content was
exchanged for that of another class, in four ways. Measured in the class with fewest: 0.69 at most
in 2,000 draws undefended or with projection, 0.57 with robust-prefix, 0.27 with random-prefix."""

KEPT_GAIN = 0.25
"""So much more than of the undefended model: a topic shows through where an opinion does not."""

KEPT_TEXTS = 5
"""A class with fewer texts is not counted."""


def probe_flags(probe: Probe | None, undefended: Probe | None) -> list[str]:
    """Doubts about a system.

    Args:
        probe: what the checks of the system found; None where it was never checked.
        undefended: the same of the undefended system, against which the others are held; the same
            object where that is the system itself.
    """
    if not probe:
        return ["not checked: no probe of this system"]
    itself = probe is undefended
    baseline: Probe = undefended or {}
    flags = [f"check failed: {name} ({error})" for name, error in probe["failed"].items()]
    if "repeats" in probe and probe["repeats"]["margins"] > _repeat_limit(baseline):
        flags.append("randomized: answers change from run to run")
    if "company" in probe and _depends_on_company(probe, {} if itself else baseline):
        flags.append("batch-dependent: answers change with the other texts of a batch")
    if "optimisation" in probe:
        flags.extend(_optimisation(probe["optimisation"]))
    if "scores" in probe:
        flags.extend(_scores(probe["scores"]))
    if "gradients" in probe:
        flags.extend(_gradients(probe["gradients"], baseline.get("gradients", {})))
    if "memory" in probe:
        flags.extend(_memory(probe["memory"], baseline.get("memory", {}), itself))
    return flags


def _repeat_limit(undefended: Probe) -> float:
    """Where rounding hangs on the company, it may hang on the order of threads, too."""
    return max(SAME_ANSWER, undefended.get("company", {}).get("margins", 0.0))


def _depends_on_company(probe: Probe, undefended: Probe) -> bool:
    limits = (
        SAME_ANSWER,
        ROUNDING_SHARE * probe.get("scores", {}).get("median_margin", 0.0),
        ROUNDING_FACTOR * undefended.get("company", {}).get("margins", 0.0),
        NOISE_FACTOR * probe.get("repeats", {}).get("margins", 0.0),
    )
    return bool(probe["company"]["margins"] > max(limits))


def _optimisation(found: Mapping[str, Any]) -> list[str]:
    optimises = found["backward_passes"] > 0 or found["graph_was_read"]
    undeclared = optimises and not found["declared"]
    return ["undeclared optimisation at inference"] if undeclared else []


def _scores(found: Mapping[str, Any]) -> list[str]:
    flags = []
    texts, distinct, saturated = found["texts"], found["distinct"], found["saturated"]
    if texts > 1 and distinct <= max(1, FEW_SCORES * texts):
        values = "value" if distinct == 1 else "values"
        flags.append(f"coarse scores: {distinct} {values} on {texts} texts")
    if saturated >= SATURATED * texts:
        flags.append(f"saturated scores: probability 1 on {saturated} of {texts} texts")
    return flags


def _gradients(found: Mapping[str, Any], undefended: Mapping[str, Any]) -> list[str]:
    if "missing" in found:
        return ["no gradients"]
    flags = []
    if found["not_finite"]:
        flags.append(f"gradients not finite on {found['not_finite']} of {found['texts']} texts")
    usual = median(undefended.get("sizes") or [0.0])
    vanishing = sum(size <= VANISHING * usual for size in found["sizes"])
    if vanishing:
        flags.append(f"zero gradients on {vanishing} of {found['texts']} texts")
    return flags


def _memory(found: Mapping[str, Any], undefended: Mapping[str, Any], itself: bool) -> list[str]:
    telling = {name for name, p in found["p_values"].items() if p < MEMORY_P_VALUE}
    innocent = {name for name, p in undefended.get("p_values", {}).items() if p < INNOCENT_P_VALUE}
    flags = []
    if itself:
        if telling:
            flags.append("memory hardly checked: texts outside the run are of another kind")
    elif telling - innocent:
        told = ", ".join(name for name in found["p_values"] if name in telling - innocent)
        flags.append(f"memory: the evaluated texts are answered unlike others ({told})")
    kept, usual = _kept_share(found), _kept_share(undefended)
    if kept >= KEPT_SHARE and kept >= usual + KEPT_GAIN:
        flags.append("memory: answers stay where the content is gone")
    if not found["others"]:
        flags.append("memory hardly checked: no texts outside the run")
    return flags


def _kept_share(found: Mapping[str, Any]) -> float:
    """In the class with fewest; 0 where there are not two classes to tell it by."""
    shares = [kept / texts for kept, texts in found.get("kept", ()) if texts >= KEPT_TEXTS]
    return min(shares) if len(shares) > 1 else 0.0
