"""A sentence-level attack: the text in other words.

After Iyyer, Wieting, Gimpel, Zettlemoyer. Adversarial Example Generation with Syntactically
Controlled Paraphrase Networks. NAACL 2018. https://aclanthology.org/N18-1170/

A language model is asked for paraphrases; those that a sentence encoder finds similar enough are
shown to the victim, and of those that it gets wrong the most similar is the adversary.

The paper's paraphraser, SCPN, writes a sentence anew by a template of syntax; its weights are not
to be had as a package. In its place a small instruction-tuned model answers a chat, without control
of the syntax. A sentence encoder judges in place of the paper's similarity and overlap of n-grams.
Both models err: a small model changes names, numbers and what is said, and an encoder finds a
sentence and its denial similar, which is why a paraphrase must have as many negations as its text.
Read the adversaries before believing them.

A column is rewritten as a whole, and of several columns one at a time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt

from attacks.base import Recipe, RecipeConfig
from attacks.label_queries import LabelQueries
from attacks.paraphraser import Paraphraser, load_paraphraser
from attacks.resources.sentence_encoder import SentenceEncoder, load_encoder
from attacks.words import WORD
from robust_prefix.evaluation.protocols import Attempt, Victim
from robust_prefix.tasks import Fields

_SHORTEST, _LONGEST = 0.5, 2.0  # words of a paraphrase by those of its text
# "n't" also without its apostrophe, as small models write it.
_NEGATION = re.compile(
    r"\b(?:no|not|never|none|nor|neither|nobody|nothing|nowhere|cannot|without|hardly|barely)\b"
    r"|n['\u2019]t\b"
    r"|\b(?:arent|cant|couldnt|didnt|dont|doesnt|isnt|shouldnt|wasnt|werent|wont|wouldnt)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class ParaphraseConfig(RecipeConfig):
    """Settings of the paraphrase attack."""

    num_candidates: PositiveInt = 16  # answers drawn for a column
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.8  # cosine with the original
    temperature: NonNegativeFloat = 0.7  # 0: the likeliest answer alone
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0  # drawn from the likeliest so far


class Paraphrase(Recipe[ParaphraseConfig]):
    """What a language model answers when it is asked to say the same in other words."""

    name = "paraphrase"
    paper = "after Iyyer et al. 2018, https://aclanthology.org/N18-1170/"
    knowledge = "label"
    edits = (
        "a column as a whole, similarity at least min_similarity, half to twice the words, as many "
        "negations"
    )
    deviation = (
        "SmolLM2-135M-Instruct asked in a chat in place of SCPN, without control of the syntax; "
        "MiniLM judges the similarity"
    )
    packages = ("jinja2",)  # which renders the chat
    needs = ("language-model", "sentence-encoder")
    config_class = ParaphraseConfig

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        """See ``Recipe``. ``queries`` counts every text asked about, the original included."""
        self._check(fields)
        queries = LabelQueries(victim, label, self.config.max_queries)
        if queries.first_misclassified([fields]) is not None or queries.over:
            return Attempt(None, queries.made)
        candidates = list(self._candidates(fields, seed))
        # The most similar first, so that it is the one found; equal ones as they were drawn.
        candidates.sort(key=lambda candidate: -candidate[0])
        found = queries.first_misclassified([text for _, text in candidates])
        return Attempt(found, queries.made)

    def _candidates(self, fields: Fields, seed: int) -> Iterator[tuple[float, Fields]]:
        """The paraphrases that are good enough, each with its similarity."""
        for number, (column, text) in enumerate(zip(self.columns, fields, strict=True)):
            if column in self._protected or not WORD.search(text):
                continue
            answers = self._paraphraser.sample(
                text,
                self.config.num_candidates,
                _derived(seed, number),
                self.config.temperature,
                self.config.top_p,
            )
            kept = _plausible(text, answers)
            vectors = self._encoder.encode([text, *kept]).double()
            for similarity, answer in zip((vectors[1:] @ vectors[0]).tolist(), kept, strict=True):
                if similarity >= self.config.min_similarity:
                    yield similarity, (*fields[:number], answer, *fields[number + 1 :])

    @cached_property
    def _paraphraser(self) -> Paraphraser:
        return load_paraphraser(self._found("language-model"))

    @cached_property
    def _encoder(self) -> SentenceEncoder:
        return load_encoder(self._found("sentence-encoder"))


def _plausible(text: str, answers: Sequence[str]) -> list[str]:
    """The answers that may be paraphrases of ``text``, in their order and each once."""
    seen = {" ".join(text.lower().split())}
    length, negations = len(WORD.findall(text)), len(_NEGATION.findall(text))
    kept = []
    for answer in answers:
        plain = " ".join(answer.lower().split())  # equal but for case and spaces is no paraphrase
        if (
            plain not in seen
            and _SHORTEST * length <= len(WORD.findall(answer)) <= _LONGEST * length
            and len(_NEGATION.findall(answer)) == negations
        ):
            kept.append(answer)
        seen.add(plain)
    return kept


def _derived(seed: int, number: int) -> int:
    """A seed of its own for each column."""
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
