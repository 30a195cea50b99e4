"""Does a system know the texts it is evaluated on? It does if it treats them unlike others.

A lookup of the test texts answers them from memory, and with them whatever it takes for them. The
checks ask about the evaluated texts and about texts outside the run, each as it is, under edits
that say nothing and with its content exchanged, and compare the two groups of texts by tests for
two samples. No robustness, randomness or habit of an honest defence can tell the groups apart; a
memory of one of them does.

What they cannot see: a memory of the texts outside the run as well, except by the checks that need
none of those; and one that gives the model's own score and only makes its sign right, unless it
takes gutted texts for known ones. Such a memory shows in ``flags.clean_flags``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from robust_prefix.evaluation.edits import HARMLESS, gut
from robust_prefix.evaluation.protocols import Example, Victim
from robust_prefix.tasks import Fields

GUTTED_SHARE = 0.35
"""Share of the content words exchanged. Two thirds of the words stay, so that a lookup by nearest
neighbour still finds its text; of the undefended SST-2 prefix of the zoo 3 in 4 such texts get the
old label, and fewer than half of the texts keep it in all versions."""

GUTTED_VERSIONS = 4
"""So many, because one alone is seldom telling."""

_ORIGINAL = "original"


def examine(
    victim: Victim, evaluated: Sequence[Example], others: Sequence[Example], seed: int
) -> dict[str, Any]:
    """Compare the answers on evaluated texts with those on other texts of the task.

    Args:
        victim: the system.
        evaluated: texts of the run.
        others: labelled texts outside it.
        seed: of the exchanged words and of the order in which texts are asked about.

    Returns:
        JSON values: ``texts`` and ``others``, how many; ``p_values`` by test, all of them of the
        null hypothesis that the texts of the run are like the others, but ``harmless edits``,
        which needs no others: that such edits help as often as they harm; ``kept``, for each class
        of the evaluated texts how many are answered right however their content is exchanged for
        that of another class, and of how many.
    """
    examples = [*evaluated, *others]
    margins = _margins(victim, examples, _versions(examples, others or evaluated, seed), seed)
    here = np.array([True] * len(evaluated) + [False] * len(others))
    original = margins[_ORIGINAL]
    harmless = np.stack([margins[name] for name in HARMLESS])
    gutted = np.stack([margins[_gutted(number)] for number in range(GUTTED_VERSIONS)])
    right = original > 0
    kept = np.all(gutted > 0, axis=0)
    p_values = {"harmless edits": _sign_test(right[here], harmless[:, here] > 0)}
    if others:
        p_values |= {
            "accuracy": _more(right, here),
            "scores": _differ(original, here),
            **{
                f"scores after {name}": _differ(abs(margins[name] - original), here)
                for name in HARMLESS
            },
            "gutted texts": _more(kept, here),
        }
    labels = np.array([example.label for example in evaluated])
    classes = [kept[here][labels == label] for label in np.unique(labels)]
    return {
        "texts": len(evaluated),
        "others": len(others),
        "p_values": p_values,
        "kept": [[int(each.sum()), len(each)] for each in classes],
    }


def _versions(
    examples: Sequence[Example], donors: Sequence[Example], seed: int
) -> dict[str, list[Fields]]:
    """Each example's text under every edit."""
    versions = {_ORIGINAL: [example.fields for example in examples]}
    for name, edit in HARMLESS.items():
        versions[name] = [tuple(map(edit, example.fields)) for example in examples]
    rng = random.Random(seed)
    for number in range(GUTTED_VERSIONS):
        versions[_gutted(number)] = [
            gut(example.fields, _donor(example, donors, rng), GUTTED_SHARE, rng)
            for example in examples
        ]
    return versions


def _donor(example: Example, donors: Sequence[Example], rng: random.Random) -> Fields:
    """A text of another class; the example's own, which exchanges nothing, where there is none."""
    fitting = [donor for donor in donors if donor.label != example.label]
    return rng.choice(fitting).fields if fitting else example.fields


def _gutted(number: int) -> str:
    return f"gutted {number}"


def _margins(
    victim: Victim,
    examples: Sequence[Example],
    versions: Mapping[str, list[Fields]],
    seed: int,
) -> dict[str, np.ndarray]:
    """The logit of the true class minus the best other, ``(examples,)``, by version."""
    # Shuffled, so that a system whose answers depend on a text's neighbours meets mixed company.
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    labels = np.array([examples[place].label for place in order])
    found = {}
    for name, texts in versions.items():
        logits = victim.logits([texts[place] for place in order])
        true = logits[np.arange(len(labels)), labels]
        logits[np.arange(len(labels)), labels] = -np.inf
        margins = np.empty(len(labels), dtype=np.float32)
        margins[order] = true - logits.max(1)
        found[name] = margins
    return found


def _sign_test(right: np.ndarray, after: np.ndarray) -> float:
    """Texts right as they are and wrong after each edit ``(edits, texts)``, against the reverse."""
    harmed = int((right & ~np.any(after, axis=0)).sum())
    helped = int((~right & np.all(after, axis=0)).sum())
    if harmed + helped == 0:
        return 1.0
    return float(stats.binomtest(harmed, harmed + helped, 0.5, alternative="greater").pvalue)


def _more(true: np.ndarray, here: np.ndarray) -> float:
    """Fisher's exact test: is something true of more evaluated texts than of others?"""
    table = [[int(true[group].sum()), int((~true[group]).sum())] for group in (here, ~here)]
    return float(stats.fisher_exact(table, alternative="greater").pvalue)


def _differ(values: np.ndarray, here: np.ndarray) -> float:
    """The two-sample test of Kolmogorov and Smirnov."""
    return float(stats.ks_2samp(values[here], values[~here]).pvalue)
