"""Ask a system what an evaluation takes for granted, in the manner of AutoAttack.

Croce & Hein 2020 (https://arxiv.org/abs/2003.01690) and their RobustBench check a defence for
randomness, optimisation at inference and gradients of zero before they believe its numbers. The
same is asked of text classifiers here, and what only they do: answers that depend on the other
texts of a batch, scores with nothing to follow, a memory of the evaluated texts.

:func:`probe` measures; ``probe_flags`` says what is too much.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from robust_prefix.errors import RobustPrefixError
from robust_prefix.evaluation.memory import examine
from robust_prefix.evaluation.protocols import Classifier, Example
from robust_prefix.evaluation.trial import STOPS_THE_RUN, CountingVictim
from robust_prefix.tasks import Fields

MEMORY_TEXTS = 32
"""Evaluated texts, and others, that are searched for signs of a memory: the smallest number at
which a nearest-neighbour lookup is told from the undefended model beyond doubt."""

TEXTS = 8
"""Evaluated texts for the other checks, which look for what happens at nearly every text."""


def probe(
    classifier: Classifier,
    examples: Sequence[Example],
    seed: int,
    *,
    others: Sequence[Example] = (),
    gradients: bool = False,
) -> dict[str, Any]:
    """Check one system; the undefended one is checked alike, for comparison.

    Costs about 750 queries with ``others``, half of them without. The result is the same each time
    for a system whose answers are.

    Args:
        classifier: the system.
        examples: those it is evaluated on; the first are used.
        seed: of everything drawn.
        others: labelled texts of the same task outside the run, best of the dev split: with the
            training texts the model is familiar, and a memory of the test split may hold the rest
            of that.
        gradients: whether to ask for gradients as well.

    Returns:
        JSON values by check. A check that crashed is left out and its error found under
        ``failed``: a crash is a finding, not a reason to stop.

    Raises:
        ConfigError, ResourceError, StorageError: the system cannot be asked at all.
    """
    victim = CountingVictim(classifier)
    few = [example.fields for example in examples[:TEXTS]]
    many = [example.fields for example in examples[:MEMORY_TEXTS]]
    strangers = [example.fields for example in (*others, *examples[TEXTS:])][:TEXTS]
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "repeats": partial(_repeats, victim, few),
        "company": partial(_company, victim, few, strangers, seed),
        "optimisation": partial(_optimisation, classifier, few),
        "scores": partial(_scores, victim, many),
        "memory": partial(examine, victim, examples[:MEMORY_TEXTS], others[:MEMORY_TEXTS], seed),
    }
    if gradients:
        checks["gradients"] = partial(_gradients, victim, few)
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name, check in checks.items():
        try:
            found[name] = check()
        except STOPS_THE_RUN:
            raise
        except Exception as error:  # whatever a system under test may do wrong
            first_line = str(error).partition("\n")[0]
            failed[name] = f"{type(error).__name__}: {first_line}"
    return found | {"failed": failed}


def _repeats(victim: CountingVictim, texts: list[Fields]) -> dict[str, Any]:
    """The same call again, and each text twice in one call."""
    first = victim.logits(texts)
    again = victim.logits(texts)
    twice = victim.logits([*texts, *texts])
    # The two halves differ from `first` where company matters, which is another check.
    return _changes([(first, again), (twice[: len(texts)], twice[len(texts) :])])


def _company(
    victim: CountingVictim, texts: list[Fields], strangers: list[Fields], seed: int
) -> dict[str, Any]:
    """Each text alone, with the others, among strangers in another order, and among its copies."""
    alone = np.concatenate([victim.logits([text]) for text in texts])
    mixed = [*texts, *strangers]
    order = list(range(len(mixed)))
    random.Random(seed).shuffle(order)
    among = np.empty((len(mixed), alone.shape[1]), dtype=np.float32)
    among[order] = victim.logits([mixed[place] for place in order])
    copies = victim.logits([texts[0]] * len(texts))
    return _changes(
        [(alone, victim.logits(texts)), (alone, among[: len(texts)]), (alone[:1], copies)]
    )


def _changes(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """How two answers to the same texts differ: a margin at most, and how many labels."""
    return {
        # the largest change of a difference between two classes; one common to all changes nothing
        "margins": round(max(float(np.ptp(a - b, axis=1).max()) for a, b in pairs), 6),
        "labels": int(sum((a.argmax(1) != b.argmax(1)).sum() for a, b in pairs)),
        "texts": sum(len(b) for _, b in pairs),
    }


def _optimisation(classifier: Classifier, texts: list[Fields]) -> dict[str, Any]:
    """What the defence says of itself, what it counted, and whether autograd ran backwards."""
    cost = classifier.defense.cost
    before = float(cost.backward)
    read = 0

    def pack(tensor: Tensor) -> Tensor:
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        nonlocal read
        read += 1
        return tensor

    # What a forward pass saves is unpacked by a backward pass alone, whoever asks for it.
    with torch.no_grad(), saved_tensors_hooks(pack, unpack):
        classifier.logits(texts)
    return {
        "declared": bool(classifier.defense.dynamic),
        "backward_passes": round((float(cost.backward) - before) / len(texts), 6),
        "graph_was_read": read > 0,
    }


def _scores(victim: CountingVictim, texts: list[Fields]) -> dict[str, Any]:
    """How many scores different texts get, and how many are so high that nothing shows of them."""
    texts = list(dict.fromkeys(texts))
    logits = victim.logits(texts)
    best, second = np.sort(logits, 1)[:, :-3:-1].T
    certain = torch.from_numpy(logits).softmax(1).max(1).values == 1
    return {
        "texts": len(texts),
        "distinct": len({round(float(margin), 4) for margin in best - second}),
        "median_margin": round(float(np.median(best - second)), 6),
        "saturated": int(certain.sum()),
    }


def _gradients(victim: CountingVictim, texts: list[Fields]) -> dict[str, Any]:
    """The size of each text's gradient, or why there is none.

    Asked for the class that the system likes least: there the loss is steep however sure the
    system is, so that what is small is the gradient of the scores themselves.
    """
    labels = victim.logits(texts).argmin(1).tolist()
    try:
        found = victim.gradients(texts, labels)
    except RobustPrefixError as error:  # it says why: nothing to differentiate, or not finite
        return {"missing": str(error)}
    sizes = []
    for each in found:
        inside = [place for place, span in enumerate(each.spans) if span is not None]
        sizes.append(float(np.linalg.norm(each.gradient[inside])))
    finite = [size for size in sizes if np.isfinite(size)]
    return {
        "texts": len(sizes),
        "not_finite": len(sizes) - len(finite),
        "zero": sum(size == 0 for size in finite),
        "sizes": [float(f"{size:.6g}") for size in finite],
    }
