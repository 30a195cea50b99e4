"""What single words do to the answer, measured by asking the model that is trained.

An attack that exchanges words asks the model about each exchange, hundreds of times a text, which
training cannot afford. What a word does to the class scores is much the same in most texts, so it
is measured once in a few of them and looked up for all: each word of a minibatch and each that may
stand for it is put into the same few texts. The first-order change of the loss at its embedding
costs no such pass, and is a bad guess: between two words lies a long way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_prefix.synonyms import WORD
from robust_prefix.tasks import Fields

Ask = Callable[[Sequence[Fields]], Tensor]
"""Class scores of texts, float32 ``(texts, classes)``."""

_CHUNK = 64  # texts a pass
_BESIDE = 3  # words on either side that are kept of a context, so that it is cheap to ask


class WordEffects:
    """A table of words, filled as they are met and measured anew from time to time.

    Args:
        contexts: texts that each word is put into.
        renew: minibatches after which words are measured anew, in other texts; what was measured
            before counts for half.
    """

    def __init__(self, contexts: int, renew: int) -> None:
        self._contexts = contexts
        self._renew = renew
        self._turn = -1
        self._frames: list[tuple[Fields, int, int]] = []
        self._level: Tensor | None = None
        self._found: dict[str, tuple[int, Tensor]] = {}

    def of(
        self,
        words: Sequence[str],
        ask: Ask,
        texts: Sequence[Fields],
        step: int,
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """What each word adds to the class scores, float32 ``(classes,)``, but for a term that is
        the same for all words.

        Args:
            texts: where to take contexts from when words are to be measured anew.
            step: number of the minibatch.
        """
        if step // self._renew != self._turn:
            self._turn = step // self._renew
            self._frames, self._level = self._chosen(texts, rng), None
        asked = list(dict.fromkeys(words))
        new = [word for word in asked if word not in self._found or self._stale(word)]
        if new:
            self._measure(new, ask)
        return {word: self._found[word][1] for word in asked}

    def state(self) -> dict[str, Any]:
        """All that was measured, as JSON holds it."""
        return {
            "turn": self._turn,
            "frames": self._frames,
            "level": None if self._level is None else self._level.tolist(),
            "found": {
                word: [turn, effect.tolist()] for word, (turn, effect) in self._found.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._turn = state["turn"]
        self._frames = [(tuple(fields), start, end) for fields, start, end in state["frames"]]
        self._level = None if state["level"] is None else torch.tensor(state["level"])
        self._found = {
            word: (turn, torch.tensor(effect)) for word, (turn, effect) in state["found"].items()
        }

    def _stale(self, word: str) -> bool:
        return self._found[word][0] != self._turn

    def _measure(self, words: Sequence[str], ask: Ask) -> None:
        texts = [_filled(frame, word) for word in words for frame in self._frames]
        scores = torch.cat([ask(texts[n : n + _CHUNK]).cpu() for n in range(0, len(texts), _CHUNK)])
        effects = scores.view(len(words), len(self._frames), -1).mean(1)
        if self._level is None:  # of the frames; what is kept from other frames has it taken off
            self._level = effects.mean(0)
        for word, effect in zip(words, effects - self._level, strict=True):
            if word in self._found:
                effect = (self._found[word][1] + effect) / 2
            self._found[word] = (self._turn, effect)

    def _chosen(
        self, texts: Sequence[Fields], rng: np.random.Generator
    ) -> list[tuple[Fields, int, int]]:
        """Parts of texts, with the place of one word in their last column."""
        frames = []
        for number in rng.permutation(len(texts)).tolist():
            *others, text = texts[number]
            places = [match.span() for match in WORD.finditer(text)]
            if not places:
                continue
            word = int(rng.integers(len(places)))
            start, end = places[word]
            first = places[max(0, word - _BESIDE)][0]
            last = places[min(len(places) - 1, word + _BESIDE)][1]
            frames.append(((*others, text[first:last]), start - first, end - first))
        return frames[: self._contexts] or [(("",) * len(texts[0]), 0, 0)]


def _filled(frame: tuple[Fields, int, int], word: str) -> Fields:
    fields, start, end = frame
    return (*fields[:-1], fields[-1][:start] + word + fields[-1][end:])
