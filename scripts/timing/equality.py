"""That the contestants answer alike: a faster way to another answer is no gain."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from attacks.textattack_import import import_textattack
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.tasks import Fields
from timing.defended import PAPER, PLAIN, fitted
from timing.literal import Literal, Sensible
from timing.material import Material
from timing.queries import LONGEST, SHIPPED, contestants


def literal_differences(
    classifier: PrefixClassifier, material: Material, sizes: tuple[int, ...] = (1, 8)
) -> dict[str, float]:
    """The largest difference of a logit between ours in the paper's mode and the literal ones.

    Args:
        classifier: in float32; in bfloat16 the first sign that Adam takes hangs on rounding.
    """
    found = {}
    paper = classifier.with_defense(classifier.build_defense(PAPER))
    for size in sizes:
        texts = material.window(0, size).texts
        ours = paper.logits(texts, batch_size=size)
        for kind in (Literal, Sensible):
            theirs = kind(classifier.model, fitted(classifier)).logits(texts)
            found[f"{kind.name}, batch {size}"] = _largest(ours, theirs)
    return found


def wrapper_differences(
    classifier: PrefixClassifier, texts: list[Fields], data_dir: Path | None
) -> dict[str, float]:
    """The largest difference of a logit between our plain answer and TextAttack's wrappers.

    Args:
        texts: candidates of an attack, on whose common beginning ours takes a short cut.
    """
    import_textattack(data_dir)
    starts = contestants(classifier)
    found = {}
    for name in (PLAIN, SHIPPED, LONGEST):
        with starts[name]() as answer:
            found[name] = answer(texts)
    return {name: _largest(found[PLAIN], found[name]) for name in (SHIPPED, LONGEST)}


def _largest(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs.float()).abs().max())
