"""(e) How a plain and a defended answer grow with text, prefix, layers in the loss and batch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.defenses import Fitted
from robust_prefix.prefixes import Prefix
from robust_prefix.subspaces import Subspace, Subspaces
from robust_prefix.tasks import Fields
from timing.defended import PLAIN, TUNED, Answer, fitted, our_answers
from timing.interleave import clock_for, timed
from timing.material import Material
from timing.results import Plan, Row, contests

PART = "growth"
AXES = ("tokens", "prefix", "layers", "batch")


@dataclass(frozen=True)
class Point:
    """One place on one axis, the others at their usual value.

    Attributes:
        axis: which one varies.
        tokens: of the text, the prompt around it not counted.
        prefix: length of the prefix.
        layers: states in the loss, the embedding counted, as in the paper's ``N``.
        batch: texts.
    """

    axis: str
    tokens: int
    prefix: int
    layers: int
    batch: int

    @property
    def setting(self) -> dict[str, int]:
        """The four numbers by name."""
        return {name: getattr(self, name) for name in AXES}


USUAL = {"tokens": 24, "prefix": 10, "layers": 3, "batch": 8}


def points(values: Mapping[str, Sequence[int]]) -> Iterator[Point]:
    """Every value of every axis, the other axes as usual."""
    for axis in AXES:
        for value in values[axis]:
            yield Point(axis, **{**USUAL, axis: value})


def measure(
    classifier: PrefixClassifier,
    material: Material,
    plan: Plan,
    values: Mapping[str, Sequence[int]],
) -> list[Row]:
    """Ours, plain and in each mode, at every point; the axis of a row is in its part's name.

    Not behind the gate: how often that opens depends on the texts, which are word salad here.
    """
    clock = clock_for(classifier.model.backbone.device)
    rows: list[Row] = []
    chosen = [point for point in points(values) if _fits(classifier, point)]
    with contests(PART, len(chosen), len(TUNED), plan) as run:
        for point in chosen:
            answers = our_answers(resized(classifier, point.prefix, point.layers), TUNED)
            count = point.batch * (plan.rounds + plan.warmup)
            texts = texts_of_length(classifier, material, point.tokens, count)
            entered = {
                name: timed(_on_slices(answer, texts, point.batch), clock)
                for name, answer in answers.items()
            }
            found = run(point.setting, entered, PLAIN, [point.batch] * plan.rounds)
            rows += [dataclasses.replace(row, part=f"{PART}: {point.axis}") for row in found]
    return rows


def _on_slices(answer: Answer, texts: list[Fields], size: int) -> Callable[[int], object]:
    return lambda number: answer(texts[number * size : (number + 1) * size])


def _fits(classifier: PrefixClassifier, point: Point) -> bool:
    """Whether the model has the positions and the layers; a small one may not."""
    backbone = classifier.model.backbone
    room = backbone.max_positions - point.prefix - 32  # for the prompt around the text
    return point.tokens <= room and point.layers <= backbone.num_layers


def resized(classifier: PrefixClassifier, length: int, layers: int) -> PrefixClassifier:
    """The classifier with a longer or shorter prefix and more or fewer layers in its loss.

    The prefix is repeated or cut and the deepest fitted subspace stands in for those below it: what
    is computed with them is of no use, but it takes as long as with fitted ones.
    """
    model = classifier.model
    repeats = -(-length // model.prefix.length)
    tensor = torch.cat([model.prefix.tensor] * repeats, dim=3)[:, :, :, :length].contiguous()
    prefix = Prefix(tensor, model.prefix.base_model, model.prefix.base_fingerprint)
    spaces = fitted(classifier)
    # Everything else that a fit may store stays as it is.
    spaces = dataclasses.replace(
        spaces,
        layers=_layers(spaces, layers),
        prefix_fingerprint=prefix.fingerprint,
    )
    # Texts are to be as long as asked, whatever the task usually cuts them to.
    task = dataclasses.replace(classifier.task, max_tokens=model.backbone.max_positions - length)
    return PrefixClassifier(model.backbone, task, prefix, fitted=Fitted(spaces))


def _layers(spaces: Subspaces, layers: int) -> dict[int, Subspace]:
    deepest = max(spaces.layers)
    return {layer: spaces.layers[min(layer, deepest)] for layer in range(layers)}


def texts_of_length(
    classifier: PrefixClassifier, material: Material, tokens: int, count: int
) -> list[Fields]:
    """``count`` different texts of ``tokens`` tokens each, of words of the given ones.

    Of several columns all but the last have one word. A word of several tokens may make a text a
    little shorter.
    """
    columns = len(classifier.task.columns)
    encode = classifier.model.backbone.encode
    words = [word for text in material.texts for column in text for word in column.split()]
    texts = []
    for number in range(count):
        start = number * len(words) // count
        turned = itertools.islice(itertools.cycle(words), start, None)
        chosen = list(itertools.islice(turned, columns))
        for word in turned:
            if len(encode([" ".join([*chosen, word])])[0]) > tokens:
                break
            chosen.append(word)
        texts.append((*chosen[: columns - 1], " ".join(chosen[columns - 1 :])))
    return texts
