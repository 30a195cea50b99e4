"""What becomes of the answer's probability when rare words give way to frequent synonyms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from robust_prefix.detection.base import Score, Seen
from robust_prefix.synonyms import WORD, SynonymClusters, word_counts
from robust_prefix.tasks import Fields


class Frequency(Score):
    """``p_y(x) - p_y(x')`` with ``y`` the answer to ``x`` and ``x'`` in frequent words.

    Mozes et al., EACL 2021, "Frequency-Guided Word Substitutions for Detecting Textual Adversarial
    Examples" (FGWS): word lists offer an attack words that hardly occur in the training data.
    Costs a second pass for the texts that have such words.

    Args:
        substitutes: what each rare word is read as.
    """

    name = "frequency"
    summary = "how much less likely the answer is in frequent words"
    paper = (
        "Mozes et al., EACL 2021, Frequency-Guided Word Substitutions for Detecting Textual "
        "Adversarial Examples"
    )
    differentiable: ClassVar[bool] = False

    def __init__(self, substitutes: SynonymClusters) -> None:
        self._substitutes = substitutes

    def rewrite(self, fields: Fields) -> Fields:
        """A text in frequent words."""
        return tuple(
            WORD.sub(lambda match: self._substitutes.read_as(match.group()), text)
            for text in fields
        )

    def __call__(self, seen: Seen) -> Tensor:
        """See ``Score``; 0 for a text without rare words."""
        rewritten = [self.rewrite(fields) for fields in seen.texts]
        changed = [
            place
            for place, (before, after) in enumerate(zip(seen.texts, rewritten, strict=True))
            if before != after
        ]
        scores = torch.zeros(len(seen.texts))
        if changed:
            before = seen.logits[changed].float().cpu().softmax(-1)
            after = seen.ask([rewritten[place] for place in changed]).softmax(-1)
            answers = before.argmax(-1, keepdim=True)
            scores[changed] = (before - after).gather(1, answers)[:, 0]
        return scores

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See ``Score``."""
        return {}, {"words": dict(self._substitutes.representative)}

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """See ``Score``."""
        return cls(SynonymClusters(values["words"]))


def fit_frequency(
    texts: Iterable[Fields], substitutes: Callable[[str], Sequence[str]], rare: float
) -> Frequency:
    """Which words are read as which, from training texts and synonyms.

    A word is rare where it occurs less often than the words at the quantile ``rare`` of the
    training vocabulary; words that do not occur at all are. Each is read as its most frequent
    synonym, where that is more frequent; of words that do not occur those are known that a word of
    the training texts has among its synonyms. The paper chooses the limit on adversaries of a
    validation split; here it is given, so that a detector knows of no attack.

    Args:
        texts: the training texts.
        substitutes: the synonyms of a lower-case word; synonymy counts both ways.
        rare: share of the vocabulary's words that are rare, 0 to 1.
    """
    counts = word_counts(texts)
    limit = float(np.quantile(list(counts.values()), rare)) if counts else 0.0
    best: dict[str, str] = {}
    # from the least frequent on, so that the most frequent synonym is what stays
    for word in sorted(counts, key=lambda word: (counts[word], word)):
        for other in map(str.lower, substitutes(word)):
            for one, instead in ((other, word), (word, other)):
                found = best.get(one)
                more = counts[instead] > (counts[one] if found is None else counts[found])
                if counts[one] < limit and more:
                    best[one] = instead
    return Frequency(SynonymClusters(best))
