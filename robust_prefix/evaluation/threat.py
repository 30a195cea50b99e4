"""The threat model of a cell in words: what its attacker sees, and what it may do."""

from __future__ import annotations

from robust_prefix.evaluation.records import RECORDED, Manifest

_SEES = {
    "none": "nothing: it asks no model",
    "label": "the predicted class",
    "score": "the scores of all classes",
    "gradient": "the weights, and gradients through the defence",
}
_GOALS = {
    "misclassify": "a text that reads alike and is misclassified",
    "keep": "nonsense that keeps its class",
}


def threat_lines(manifest: Manifest) -> list[tuple[str, str]]:
    """What to know of the attack, each as a label and its words; what was not said is left out."""
    settings = manifest.settings
    queries = settings.get("threat.max_queries")
    budget = "no limit" if queries is None else f"at most {queries}"
    found = [
        ("Attack", manifest.attack),
        ("Sees", _SEES.get(str(settings.get("threat.knowledge")), "") + _hidden(manifest)),
        ("Wants", _GOALS.get(str(settings.get("goal")), "")),
        ("May change", str(settings.get("threat.columns") or "")),
        ("Edits", str(settings.get("threat.edits") or "")),
        ("Queries an example", budget if "threat.max_queries" in settings else ""),
        ("Differs from its paper", str(settings.get("deviation") or "")),
    ]
    if RECORDED in settings:
        found.append(
            ("Recorded", f"its adversaries come from a file, SHA-256 {settings[RECORDED]}")
        )
    resources = [
        f"{name.removeprefix('resource.')} ({found_at})"
        for name, found_at in sorted(settings.items())
        if name.startswith("resource.")
    ]
    found.append(("Needs", ", ".join(resources)))
    return [(label, words) for label, words in found if words]


def _hidden(manifest: Manifest) -> str:
    if any("adaptive" in manifest.searches(defense) for defense in manifest.hiding):
        return "; in the adaptive attack also those that a bound hides"
    return ""
