"""An adversary that puts words before or behind the texts of a class while a prefix is trained.

Training against universal perturbations (Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein, AAAI
2020, "Universal Adversarial Training"), here of words: universal adversarial triggers (Wallace et
al., EMNLP 2019). A trigger is chosen by the first-order change of the loss, summed over a
minibatch's texts of one class, so that it is one for all of them as the attack's is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.objectives.base import Adversary, Minibatch, Prompts, TextReader
from robust_prefix.prefixes.hard_prompt import readable_tokens
from robust_prefix.prefixes.model import Prompter
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import Fields
from robust_prefix.word_scores import WordScores


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class TriggersConfig:
    """Settings of the search.

    Attributes:
        length: the most words that are put to a text; how many is drawn anew a minibatch.
        variants: triggers tried for each class; each text is trained on with its worst.
        borrowed: more of them, what a text of another class in the minibatch begins or ends with.
        temperature: how far the draw strays from the words ranked first; 0 never.
        place: of the text, where the words stand; for ``either`` it is drawn anew a minibatch.
    """

    length: int = Field(default=4, ge=1)
    variants: int = Field(default=3, ge=1)
    borrowed: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.3, ge=0)
    place: Literal["start", "end", "either"] = "start"


@dataclass(frozen=True)
class _Vocabulary:
    """Words of one token: how they read, and their input embeddings ``(words, hidden)``.

    Where a reader stands before everything, those alone that it leaves as they are; what the model
    alone reads in their place has the embeddings.
    """

    words: tuple[str, ...]
    vectors: Tensor
    _said: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, prompter: Prompter, reader: TextReader | None) -> _Vocabulary:
        tokens = {
            token: prompter.backbone.decode([token]).strip()
            for token in readable_tokens(prompter.backbone)
        }
        if reader is not None:
            tokens = {
                token: word for token, word in tokens.items() if reader.read((word,)) == (word,)
            }
        matrix = prompter.backbone.embeddings
        vectors = matrix[list(tokens)].float().cpu()
        for place, word in enumerate(tokens.values()):
            [read] = prompter.read((word,))
            if read != word:
                [row] = prompter.backbone.encode([f" {read}"])
                vectors[place] = matrix[row].float().mean(0).cpu()
        return cls(tuple(tokens.values()), vectors)

    def say(self, scores: WordScores) -> Tensor:
        """What the words say, float32 ``(words, classes)``; looked up once a table."""
        if scores.fingerprint not in self._said:
            said = torch.stack([scores.says(word) for word in self.words])
            self._said[scores.fingerprint] = said
        return self._said[scores.fingerprint]


class TriggerAdversary(Adversary[TriggersConfig]):
    """Texts with words that make the model get their class wrong.

    Args:
        prompter: of the model that is trained. The words stand in its task's last column.
        reader: rewrites the texts before the model.
    """

    name = "triggers"
    summary = "texts with words put to them that raise the loss of all texts of their class"
    config_type = TriggersConfig

    def __init__(
        self, prompter: Prompter, reader: TextReader | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._prompter = prompter
        self._vocabulary = _Vocabulary.of(prompter, reader)

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        prompter: Prompter,
        substitutes: Substitutes | None,
        reader: TextReader | None = None,
    ) -> Self:
        """See ``Adversary``."""
        return cls(prompter, reader, **settings)

    def perturb(self, minibatch: Minibatch, seed: int) -> list[Prompts]:
        """The prompts of each text with the worst trigger of its class."""
        rng = np.random.default_rng((seed, minibatch.step))
        labels = minibatch.labels.tolist()
        count = int(rng.integers(1, self.config.length + 1))
        begun = {
            label: tuple(rng.choice(self._vocabulary.words, size=count))
            for label in sorted(set(labels))
        }
        at_end = self.config.place == "end"
        if self.config.place == "either":
            at_end = bool(rng.integers(2))
        gains = self._gains(minibatch, begun, at_end)
        found = [
            {label: self._drawn(gains[label], rng) for label in begun}
            for _ in range(self.config.variants)
        ]
        if len(begun) > 1:
            found += [
                {label: _borrowed(minibatch, label, count, at_end, rng) for label in begun}
                for _ in range(self.config.borrowed)
            ]
        pool = [_put(minibatch, triggers, at_end) for triggers in found]
        with torch.no_grad():
            losses = minibatch.losses(minibatch.embed([text for texts in pool for text in texts]))
        worst = losses.view(len(pool), -1).argmax(0).tolist()
        return [minibatch.embed([pool[best][text] for text, best in enumerate(worst)])]

    def _gains(
        self, minibatch: Minibatch, begun: Mapping[int, tuple[str, ...]], at_end: bool
    ) -> dict[int, Tensor]:
        """First-order gain in its class's loss of each word at each place ``(places, words)``, in
        place of the words that are there."""
        texts = _put(minibatch, begun, at_end)
        prompts = minibatch.embed(texts)
        gradient, of_beside = minibatch.slopes(prompts)
        slopes = {
            label: torch.zeros(len(words), gradient.shape[-1]) for label, words in begun.items()
        }
        for row, label, text, fields in zip(
            gradient, minibatch.labels.tolist(), texts, minibatch.fields, strict=True
        ):
            first = len(fields[-1]) + 1 if at_end else 0
            ends = first + np.cumsum([len(word) + 1 for word in begun[label]])
            for token, span in enumerate(self._prompter.spans(text)):
                # by its last character: a token may begin with the space before its word
                if span is not None and span[0] == len(text) - 1 and first < span[2] <= ends[-1]:
                    slopes[label][int(np.searchsorted(ends, span[2]))] += row[token]
        gains = {label: slope @ self._vocabulary.vectors.T for label, slope in slopes.items()}
        if of_beside is not None:
            labels = minibatch.labels.tolist()
            for words, label, slope in zip(minibatch.words, labels, of_beside, strict=True):
                gains[label] += self._vocabulary.say(words) @ slope
        return gains

    def _drawn(self, gains: Tensor, rng: np.random.Generator) -> tuple[str, ...]:
        """A word for each place: the first by gain, the gains made noisy."""
        noise = torch.from_numpy(rng.gumbel(size=gains.shape)).float()
        noisy = gains + self.config.temperature * gains.std() * noise
        return tuple(self._vocabulary.words[word] for word in noisy.argmax(1).tolist())


def _borrowed(
    minibatch: Minibatch, label: int, count: int, at_end: bool, rng: np.random.Generator
) -> tuple[str, ...]:
    """What a text of another class ends or begins with: ``count`` words that read as one goes on,
    which words chosen each for itself do not."""
    others = [
        fields[-1].split()
        for fields, other in zip(minibatch.fields, minibatch.labels.tolist(), strict=True)
        if other != label
    ]
    words = others[int(rng.integers(len(others)))]
    return tuple(words[-count:] if at_end else words[:count])


def _put(
    minibatch: Minibatch, triggers: Mapping[int, tuple[str, ...]], at_end: bool
) -> list[Fields]:
    """The texts with their class's words before the last column, or behind it."""
    found = []
    for fields, label in zip(minibatch.fields, minibatch.labels.tolist(), strict=True):
        words, text = " ".join(triggers[label]), fields[-1]
        found.append((*fields[:-1], f"{text} {words}" if at_end else f"{words} {text}"))
    return found
