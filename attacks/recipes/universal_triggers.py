"""Universal adversarial triggers.

Wallace, Feng, Kandpal, Gardner, Singh. Universal Adversarial Triggers for Attacking and Analyzing
NLP. EMNLP 2019. https://aclanthology.org/D19-1221/

A trigger is a few words that, put before any text of a class, make the model get it wrong. It is
searched for once, on training examples that the victim gets right: the loss's gradient at the
trigger's embeddings, averaged over a batch, says for each place which tokens would raise the loss
most (the estimate of HotFlip); those are tried place by place in a beam, and the next batch starts
from the best trigger. Afterwards it is put before every text as it is.

The victim is whatever it is given, defence included, so the gradient passes the defence (see
``through``) and the trigger is fitted to it.

It differs from the paper and its code:

* A trigger is to make its class's texts wrong, not one chosen class right. For two classes that is
  the same.
* The paper leaves sentiment words out by a lexicon, which is a list for one task. Here only the
  labels' own names are left out, so a trigger may say outright what the other class says.
* Tokens are those that are a word by themselves, and that come back as the same tokens when the
  text is encoded again: what is found is a text, not a row of ids.
* Where the victim may refuse to answer, what it refuses counts as held in the search, too.
* Words are put before the columns that ``modify`` names; of a pair before the hypothesis. With
  ``place=end`` they are put behind them: who defends the beginning of a text alone, or was trained
  against words there, is to be asked about its end.
* With ``starts`` there are several searches, and what does most to all the training examples is
  kept: a model that was trained against triggers ends a single search early (docs/findings.md).
* With ``borrowed`` one more search begins with what texts of other classes begin with (behind the
  text: end with): phrases that go on as one, which a gradient does not come upon word by word.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from attacks.base import Recipe
from attacks.gradients import GradientConfig
from attacks.substitution import Queries
from attacks.victim import checked_logits, facing, gradient_victim, tokens_at
from attacks.vocabulary import Words, read_vocabulary
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.protocols import (
    Attempt,
    Example,
    GradientVictim,
    ThreatModel,
    Victim,
)
from robust_prefix.progress import progress
from robust_prefix.tasks import Fields

Trigger = tuple[str, ...]

_START = "the"  # what every place of a trigger begins as, as in the authors' code


@dataclass(frozen=True, kw_only=True)
class UniversalTriggersConfig(GradientConfig):
    """Settings of universal triggers."""

    length: PositiveInt = 3  # words
    num_candidates: PositiveInt = 20  # words tried in each place; 40 in the authors' code
    beam_width: PositiveInt = 1  # triggers kept from place to place
    fit_examples: PositiveInt = 128  # training examples, drawn evenly from the classes
    batch_size: PositiveInt = 16  # examples that a gradient is averaged over
    batches: PositiveInt = 8  # gradients a class and start
    starts: PositiveInt = 1  # searches a class, those after the first from words at random
    borrowed: NonNegativeInt = 0  # phrases of other classes' texts tried; the best starts a search
    place: Literal["start", "end"] = "start"  # of the text, where the trigger stands


class UniversalTriggers(Recipe[UniversalTriggersConfig]):
    """A few words before the text, or behind it: the same for all texts of a class."""

    name = "universal-triggers"
    paper = "Wallace et al. 2019, https://aclanthology.org/D19-1221/"
    knowledge = "gradient"
    edits = "the same length words put before every text of a class, or behind"
    deviation = (
        "raises the true class's loss rather than lowering a chosen one's; leaves out the labels' "
        "names alone, not all sentiment words; tokens that are whole words"
    )
    config_class = UniversalTriggersConfig

    _triggers: Mapping[str, str] | None = None

    def fit(self, victim: Victim, examples: Sequence[Example], seed: int) -> str:
        """Search for a trigger for each class; the same ``seed`` finds the same.

        Args:
            victim: what is to be fooled; its queries are not limited here.
            examples: of the training split. Those that the victim gets wrong are left out.

        Returns:
            JSON: ``{"triggers": {label: words}, "fit": {label: {"examples": n, "right": before,
            "right_after": behind the trigger}}}``. A class of which the victim gets nothing right
            has no words.

        Raises:
            ConfigError: the victim gives no gradients.
        """
        rng = random.Random(seed)
        triggers: dict[str, str] = {}
        report: dict[str, dict[str, int]] = {}
        for label, name in enumerate(victim.labels):
            texts = self._sample(examples, label, len(victim.labels), rng)
            seen = gradient_victim(facing(victim, label))
            right = _right(seen, texts, label)
            others = [example.fields for example in examples if example.label != label]
            trigger = _Search(self, seen, label, right, others, rng).run() if right else ()
            triggers[name] = " ".join(trigger)
            after = [self.with_trigger(text, triggers[name]) for text in right]
            report[name] = {
                "examples": len(texts),
                "right": len(right),
                "right_after": len(_right(seen, after, label)),
            }
        return json.dumps({"triggers": triggers, "fit": report})

    def fitted(self, state: str) -> Self:
        """The attack with the triggers that ``fit`` returned.

        Raises:
            ArtifactError: ``state`` is nothing that ``fit`` returned.
        """
        try:
            triggers = json.loads(state)["triggers"]
            good = all(isinstance(words, str) for words in triggers.values())
        except (ValueError, TypeError, KeyError, AttributeError):
            good = False
        if not good:
            raise ArtifactError(
                f"expected the triggers that {self.name} was fitted with, got {state[:80]!r}; "
                "fit them again"
            )
        attack = copy.copy(self)
        attack._triggers = triggers
        return attack

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """See ``Recipe``. Two queries: the text, and the text behind its class's trigger.

        Raises:
            ConfigError: nothing was fitted, or to other labels.
        """
        self._check(fields)
        if self._triggers is None:
            raise ConfigError(
                f"expected triggers for {self.name}, got none; fit it on training examples and "
                "attack with what fitted() returns"
            )
        name = victim.labels[label]
        if name not in self._triggers:
            raise ConfigError(
                f"expected a trigger for the label {name!r}, got those for "
                f"{', '.join(self._triggers)}; fit them on this task"
            )
        queries = Queries(victim, label, self.config.max_queries or 2)
        queries.ask([fields])
        if queries.adversarial is not None:  # wrong as it is: there is nothing to attack
            return Attempt(None, queries.made)
        if self._triggers[name]:
            queries.ask([self.with_trigger(fields, self._triggers[name])])
        return Attempt(queries.adversarial, queries.made)

    @property
    def threat(self) -> ThreatModel:
        """See ``Recipe``. Two queries are all that it makes of a text: a larger limit is none."""
        limit = 1 if self.config.max_queries == 1 else None
        return dataclasses.replace(super().threat, max_queries=limit)

    @property
    def open_columns(self) -> list[int]:
        """Places of the columns that may change."""
        return [number for number, name in enumerate(self.columns) if name not in self._protected]

    def with_trigger(self, fields: Fields, trigger: str) -> Fields:
        """``fields`` with the trigger at its place in each column that may change."""
        at_start = self.config.place == "start"
        return tuple(
            (f"{trigger} {text}" if at_start else f"{text} {trigger}")
            if number in self.open_columns
            else text
            for number, text in enumerate(fields)
        )

    def begins(self, text: str) -> int:
        """The character at which a trigger begins in a column that reads ``text`` without it."""
        return 0 if self.config.place == "start" else len(text) + 1

    def _sample(
        self, examples: Sequence[Example], label: int, classes: int, rng: random.Random
    ) -> list[Fields]:
        own = [example.fields for example in examples if example.label == label]
        return rng.sample(own, min(len(own), max(1, self.config.fit_examples // classes)))


class _Search:
    """The search for one class's trigger.

    Args:
        attack: whose settings and columns.
        victim: what is asked.
        label: the class.
        texts: its examples that the victim gets right; at least one.
        others: examples of the other classes, to borrow from.
        rng: the only source of chance.
    """

    def __init__(
        self,
        attack: UniversalTriggers,
        victim: GradientVictim,
        label: int,
        texts: list[Fields],
        others: list[Fields],
        rng: random.Random,
    ) -> None:
        self.attack = attack
        self.config = attack.config
        self.victim = victim
        self.label = label
        self.texts = texts
        self.others = others
        self.rng = rng
        self.vocabulary = read_vocabulary(victim)
        self.left_out = {name.lower() for name in victim.labels}

    def run(self) -> Trigger:
        """The trigger with the highest loss of all texts, of those that the starts lead to."""
        searches = self.config.starts + bool(self.config.borrowed)
        batches, found = self.config.batches, []
        with progress(
            f"trigger for {self.victim.labels[self.label]}", searches * batches
        ) as advance:
            for start, words in enumerate(self._starts()):
                for batch, trigger in enumerate(self._improved(words), 1):
                    advance(start * batches + batch, " ".join(trigger))
                found.append(trigger)
        if len(found) == 1:
            return found[0]
        return found[int(self._losses(found, self.texts).argmax())]

    def _starts(self) -> Iterator[Trigger]:
        """What each search begins with."""
        # a model of word pieces has words behind a space alone
        bare, spaced = self.vocabulary.bare.texts, self.vocabulary.spaced.texts
        pool = bare if bare and self.config.place == "start" else spaced
        pool = tuple(word for word in pool if word.lower() not in self.left_out)
        yield (_START,) * self.config.length
        for _ in range(self.config.starts - 1):
            yield tuple(self.rng.choices(pool, k=self.config.length))
        yield from self._best_borrowed()

    def _best_borrowed(self) -> list[Trigger]:
        """The phrase of other classes' texts that does most, one or none."""
        at_start, length = self.config.place == "start", self.config.length
        phrases: dict[Trigger, None] = {}
        for fields in self.rng.sample(self.others, len(self.others)):
            if len(phrases) == self.config.borrowed:
                break
            for column in self.attack.open_columns:
                words = tuple(fields[column].split())
                phrase = words[:length] if at_start else words[-length:]
                if len(phrase) == length and self.left_out.isdisjoint(map(str.lower, phrase)):
                    phrases[phrase] = None
        tried = list(phrases)[: self.config.borrowed]
        if not tried:
            return []
        batch = self.rng.sample(self.texts, min(len(self.texts), 2 * self.config.batch_size))
        return [tried[int(self._losses(tried, batch).argmax())]]

    def _improved(self, trigger: Trigger) -> Iterator[Trigger]:
        """The trigger after each batch."""
        for _ in range(self.config.batches):
            size = min(len(self.texts), self.config.batch_size)
            before, trigger = trigger, self._step(trigger, self.rng.sample(self.texts, size))
            yield trigger
            if trigger == before and size == len(self.texts):
                break  # every batch is the same one, and it has nothing better

    def _step(self, trigger: Trigger, batch: list[Fields]) -> Trigger:
        """The best of what the gradient at ``trigger`` proposes, ``trigger`` included."""
        proposed = self._proposals(trigger, batch)
        beam = [trigger]
        for number, words in enumerate(proposed):
            tried = [
                *beam,
                *((*kept[:number], word, *kept[number + 1 :]) for kept in beam for word in words),
            ]
            tried = list(dict.fromkeys(tried))
            best = np.argsort(-self._losses(tried, batch), kind="stable")
            beam = [tried[place] for place in best[: self.config.beam_width]]
        return beam[0]

    def _proposals(self, trigger: Trigger, batch: list[Fields]) -> list[list[str]]:
        """For each place the words with the highest estimated loss, the highest first."""
        slopes = np.zeros((len(trigger), self.victim.embeddings().shape[1]))
        begun = [""] * len(trigger)  # text of the token that each place begins with
        ends = np.cumsum([len(word) + 1 for word in trigger]) - 1
        gradients = self.victim.gradients(
            [self.attack.with_trigger(text, " ".join(trigger)) for text in batch],
            [self.label] * len(batch),
            self.config.through,
        )
        for fields, found in zip(batch, gradients, strict=True):
            for number, (word, end) in enumerate(zip(trigger, ends, strict=True)):
                for column in self.attack.open_columns:
                    end_here = self.attack.begins(fields[column]) + end
                    rows = tokens_at(found, (column, end_here - len(word), end_here))
                    if not len(rows):  # cut off behind the most tokens that are read
                        continue
                    slopes[number] += found.gradient[rows].sum(axis=0)
                    begun[number] = self.victim.decode([found.tokens[row] for row in rows[:1]])
        return [
            self._best(self.vocabulary.like(text), slope)
            for text, slope in zip(begun, slopes, strict=True)
        ]

    def _best(self, words: Words, slope: np.ndarray) -> list[str]:
        """The words with the highest estimate, labels' names left out."""
        best: list[str] = []
        for place in np.argsort(-(words.embeddings @ slope), kind="stable"):
            if len(best) == self.config.num_candidates:
                break
            if words.texts[place].lower() not in self.left_out:
                best.append(words.texts[place])
        return best

    def _losses(self, triggers: list[Trigger], batch: list[Fields]) -> np.ndarray:
        """Mean cross-entropy of the class over ``batch`` behind each trigger ``(triggers,)``."""
        texts = [
            self.attack.with_trigger(text, " ".join(trigger))
            for trigger in triggers
            for text in batch
        ]
        logits = checked_logits(self.victim, texts)
        losses = np.logaddexp.reduce(logits, axis=1) - logits[:, self.label]
        return losses.reshape(len(triggers), len(batch)).mean(axis=1)


def _right(victim: Victim, texts: list[Fields], label: int) -> list[Fields]:
    """Those that the victim takes for ``label``."""
    if not texts:
        return []
    answers = checked_logits(victim, texts).argmax(axis=1)
    return [text for text, answer in zip(texts, answers, strict=True) if answer == label]
