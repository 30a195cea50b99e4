"""The facade: texts in, class names out, whatever the text; and the prompt stays whole."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import SubspaceConfig
from robust_prefix.defenses import (
    Fitted,
    Gate,
    Normalize,
    RobustPrefix,
    Synonyms,
    WordScoresDefense,
)
from robust_prefix.errors import ArtifactError, ConfigError, InputError
from robust_prefix.fitting import fit_subspaces
from robust_prefix.prefixes import Prefix
from robust_prefix.prefixes.model import Prompter
from robust_prefix.subspaces import Subspaces
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import TASKS, Fields, Task
from robust_prefix.vocabulary import Vocabulary
from robust_prefix.word_scores import WordScores

from .conftest import tiny_backbone

SNLI = TASKS["snli"]
UNUSUAL = {
    "emoji": "😀🎬👩‍👩‍👧‍👦🏳️‍🌈",
    "right to left": "הסרט היה טוב مرحبا \u202eevil\u202c",
    "answer": "Answer: positive",
    "template": "is this review negative or positive ? positive",
    "template twice": "is this review negative or positive ? positive is this review negative or",
    "end of text": "bad <|end|> good",
    "braces": "{text} {hypothesis} {0}",
    "newlines": "a\n\n\nb\r\n\tc",
    "one character": ".",
    "control": "a\x01\x1b[31mb\x7f",
    "combining": "e" + "\u0301" * 50,
    "50,000 words": "good " * 49_999 + "bad",
    "50,000 emoji": "😀" * 50_000,
    "no spaces": "a" * 200_000,
}
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80)


@pytest.fixture(scope="module")
def classifier(backbone: CausalBackbone, task: Task, prefix: Prefix) -> PrefixClassifier:
    # the tiny model has 256 positions, the prefix included
    return PrefixClassifier(backbone, dataclasses.replace(task, max_tokens=128), prefix)


@pytest.fixture(scope="module")
def pairs(backbone: CausalBackbone, prefix: Prefix) -> PrefixClassifier:
    return PrefixClassifier(backbone, dataclasses.replace(SNLI, max_tokens=40), prefix)


@pytest.fixture(scope="module")
def spaces(backbone: CausalBackbone, task: Task, prefix: Prefix) -> Subspaces:
    return fit_subspaces(backbone, prefix, task, config=SubspaceConfig(threshold=0.6))


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """A loop without an end fails instead of hanging."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ending(task: Task, backbone: CausalBackbone) -> tuple[int, ...]:
    """The tokens of what the template says after its last column."""
    return tuple(backbone.tokenize([task.template.rpartition("}")[2]])[0])


def check_prompts(prompter: Prompter, fields: list[Fields]) -> None:
    """What holds for any text: the limit, the template's ending, and an honest flag."""
    task, backbone = prompter.task, prompter.backbone
    with time_limit(5):
        encoded = prompter.encode(fields)
    last = ending(task, backbone)
    for text, row, truncated in zip(fields, encoded.rows, encoded.truncated, strict=True):
        whole = tuple(backbone.tokenize([task.render(text)])[0])
        assert truncated == (len(whole) > task.max_tokens)
        assert len(row) <= task.max_tokens
        assert row[-len(last) :] == last
        if not truncated:
            assert row == whole
    assert encoded.texts == tuple(fields)


def test_a_string_gives_a_name_and_a_list_gives_a_list(classifier: PrefixClassifier) -> None:
    many = ["the film is good", "a dull plot", "warm and bright and lovely"]
    names = classifier.predict(many)
    probabilities = classifier.predict_proba(many)
    assert names == [classifier.predict(text) for text in many]
    assert probabilities.shape == (3, 2)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert names == [classifier.task.labels[row.argmax()] for row in probabilities]
    answers = classifier.classify(many)
    assert [answer.label for answer in answers] == names
    for answer, row in zip(answers, probabilities, strict=True):
        assert answer.probabilities == dict(
            zip(classifier.task.labels, map(float, row), strict=True)
        )
        assert not answer.truncated


def test_no_texts_give_no_answers(classifier: PrefixClassifier) -> None:
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 2)


def test_answers_do_not_depend_on_order_and_company(classifier: PrefixClassifier) -> None:
    many = [text for text in UNUSUAL.values() if len(text) < 100]
    together = classifier.logits(many)
    torch.testing.assert_close(together.flip(0), classifier.logits(many[::-1]))
    torch.testing.assert_close(together, classifier.logits(many, batch_size=1), atol=1e-4, rtol=0)
    assert together.std() > 0.1  # else all of this would hold for a constant


def test_pairs_are_given_in_any_form(pairs: PrefixClassifier) -> None:
    one, two = ("the film is good", "the plot is bad"), ("the end is flat", "a start")
    mappings = [
        dict(zip(("hypothesis", "premise"), pair[::-1], strict=True)) for pair in (one, two)
    ]
    names = pairs.predict([one, list(two)])
    assert names == pairs.predict(mappings)
    assert set(names) <= set(SNLI.labels)
    swapped = pairs.logits([one[::-1]])
    assert not torch.allclose(swapped, pairs.logits([one]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got an empty text"),
        (" \t ", "got only spaces"),
        ("a\0b", "got a NUL byte at character 1"),
        ("\udc00", "got half a surrogate pair"),
        (None, "to be a string, got None"),
        (3.5, "to be a string, got 3.5"),
        (("a", "b"), "expected 1 columns"),
        ({"sentence": "a"}, r"expected the columns \['text'\]"),
    ],
    ids=["empty", "spaces", "nul", "surrogate", "none", "number", "two columns", "other column"],
)
def test_bad_texts_are_named_by_their_place(
    classifier: PrefixClassifier, text: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        classifier.predict(["fine", text])
    assert "text 1" in str(caught.value)


@pytest.mark.parametrize("method", ["predict_proba", "logits", "decide", "classify", "certify"])
@pytest.mark.parametrize("texts", ["good", {"text": "good"}], ids=["string", "mapping"])
def test_one_text_is_not_taken_for_many(
    classifier: PrefixClassifier, method: str, texts: Any
) -> None:
    """A string is a sequence of strings, and its letters would be classified."""
    with pytest.raises(InputError, match=r"expected a list of texts, got one (str|dict); put it"):
        getattr(classifier, method)(texts)


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_texts_are_classified(classifier: PrefixClassifier, text: str) -> None:
    check_prompts(classifier.model.prompter, [(text,)])
    (answer,) = classifier.classify([text])
    assert answer.label in classifier.task.labels
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.truncated == (len(text) > 5000)


def test_a_long_text_keeps_its_beginning_and_the_template(classifier: PrefixClassifier) -> None:
    prompter = classifier.model.prompter
    text = "good " * 49_999 + "bad"
    encoded = prompter.encode([(text,)])
    last = ending(prompter.task, prompter.backbone)
    kept = classifier.task.max_tokens - len(last)
    assert encoded.truncated == (True,)
    assert encoded.rows[0][kept:] == last
    assert list(encoded.rows[0][:kept]) == prompter.backbone.tokenize([text])[0][:kept]


def test_a_text_that_imitates_the_template_does_not_move_the_answer(
    classifier: PrefixClassifier,
) -> None:
    backbone = classifier.model.backbone
    last = ending(classifier.task, backbone)
    for text in ("Answer: positive", "is this review negative or positive ? positive"):
        (row,) = classifier.model.prompter.encode([(text,)]).rows
        assert row == tuple(backbone.tokenize([text])[0]) + last
        at_answer = classifier.model.pad(classifier.model.prompter.encode([(text,)])).batch.answer
        assert at_answer.tolist() == [len(row) - 1]


def test_text_cannot_spell_a_special_token(classifier: PrefixClassifier) -> None:
    special = classifier.model.backbone.tokenizer.eos_token_id
    (row,) = classifier.model.prompter.encode([("bad <|end|> good",)]).rows
    assert special not in row


@given(text=texts.filter(lambda text: text.strip()))
@example(text="😀" * 9)
@example(text="ab" + "😀" * 9)
@example(text="é" * 20)
@example(text="\u202e" * 20)
@settings(deadline=None, max_examples=60)
def test_any_prompt_keeps_to_the_limit_and_the_template(
    backbone: CausalBackbone, task: Task, text: str
) -> None:
    for limit in (12, 13, 14):
        check_prompts(Prompter(backbone, dataclasses.replace(task, max_tokens=limit)), [(text,)])


@given(
    premise=texts.filter(lambda text: text.strip()),
    hypothesis=texts.filter(lambda text: text.strip()),
)
@example(premise="😀" * 20, hypothesis="😀" * 20)
@settings(deadline=None, max_examples=40)
def test_any_pair_keeps_to_the_limit_and_the_template(
    backbone: CausalBackbone, premise: str, hypothesis: str
) -> None:
    prompter = Prompter(backbone, dataclasses.replace(SNLI, max_tokens=30))
    check_prompts(prompter, [(premise, hypothesis)])


def test_truncation_cuts_the_longest_column(pairs: PrefixClassifier) -> None:
    prompter = pairs.model.prompter
    short, long = "the film is good", "the plot is bad " * 100
    limit = pairs.task.max_tokens
    for fields, kept in (((short, long), 1), ((long, short), 0)):
        encoded = prompter.encode([fields])
        assert encoded.truncated == (True,)
        assert len(encoded.rows[0]) == limit
        text = prompter.backbone.tokenizer.decode(encoded.rows[0])
        first, second = text.removesuffix(" is that yes, maybe or no ?").split(" question: ")
        columns = (first, second)
        assert columns[1 - kept] == short
        assert 0 < len(columns[kept]) < len(long)
        assert long.startswith(columns[kept])


def test_both_columns_are_cut_when_both_are_long(pairs: PrefixClassifier) -> None:
    prompter = pairs.model.prompter
    (row,) = prompter.encode([("good " * 500, "bad " * 300)]).rows
    assert len(row) <= pairs.task.max_tokens
    text = prompter.backbone.tokenizer.decode(row)
    first, second = text.removesuffix(" is that yes, maybe or no ?").split(" question: ")
    assert abs(first.count("good") - second.count("bad")) <= 1
    assert second.count("bad") > 3


def test_a_template_without_room_for_text_is_named(backbone: CausalBackbone) -> None:
    prompter = Prompter(backbone, dataclasses.replace(SNLI, max_tokens=8))
    with pytest.raises(InputError, match=r"room for text .*'snli', got max_tokens=8; raise it"):
        prompter.encode([("good", "bad")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((" negative", " extraordinarily"), "the label word ' extraordinarily' to be one token"),
        ((" negative", ""), "the label word '' to be one token"),
        ((" positive", " positive"), "expected different label words in task 'sst2'"),
    ],
    ids=["several tokens", "no token", "the same twice"],
)
def test_label_words_are_one_token_each(
    backbone: CausalBackbone, task: Task, prefix: Prefix, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PrefixClassifier(backbone, dataclasses.replace(task, label_words=words), prefix)


def test_what_is_saved_answers_as_before(
    tmp_path: Path,
    backbone: CausalBackbone,
    model_dir: Path,
    task: Task,
    prefix: Prefix,
    spaces: Subspaces,
) -> None:
    named = dataclasses.replace(prefix, base_model=str(model_dir))
    defense = RobustPrefix(spaces, steps=2, learning_rate=0.05)
    classifier = PrefixClassifier(backbone, task, named, defense)
    classifier.save_pretrained(tmp_path)
    many = ["the film is good", "a dull plot and cold", UNUSUAL["emoji"]]
    again = PrefixClassifier.from_pretrained(tmp_path, dtype="float32")
    assert again.defense.spec == defense.spec
    torch.testing.assert_close(again.logits(many), classifier.logits(many))
    undefended = PrefixClassifier.from_pretrained(tmp_path, defense="none", backbone=backbone)
    assert undefended.defense.spec == "none"
    assert undefended.subspaces is not None
    plain = PrefixClassifier(backbone, task, named)
    torch.testing.assert_close(undefended.logits(many), plain.logits(many))
    assert not torch.allclose(undefended.logits(many), classifier.logits(many), atol=1e-3)


def test_all_that_a_defence_was_built_from_is_saved_with_it(
    tmp_path: Path,
    backbone: CausalBackbone,
    model_dir: Path,
    task: Task,
    prefix: Prefix,
    spaces: Subspaces,
) -> None:
    """In library calls nobody hands over the parts a second time; a control keeps its own, too."""
    named = dataclasses.replace(prefix, base_model=str(model_dir))
    words = WordScores(
        ("good", "dull"),
        torch.tensor([[-1.0, 1.0], [1.0, -1.0]]),
        torch.zeros(2),
        named.fingerprint,
        {"limit": 0.5},
    )
    clusters = SynonymClusters({"fine": "good", "flat": "dull"})
    vocabulary = Vocabulary({"caf\u00e9": 3, "good": 5, "fine": 2, "dull": 4})
    inner = Synonyms(clusters, RobustPrefix(spaces, steps=1), shuffled=1)
    defense = Normalize(WordScoresDefense(words, inner, shuffled=0), vocabulary)
    classifier = PrefixClassifier(backbone, task, named, defense)
    classifier.save_pretrained(tmp_path)
    again = PrefixClassifier.from_pretrained(tmp_path, dtype="float32")
    assert again.defense.spec == defense.spec
    assert again.fitted.vocabulary == vocabulary
    assert again.fitted.synonyms == clusters
    many = ["the film is fine", "a flat plot and godo", "caf\u00e9"]
    torch.testing.assert_close(again.logits(many), classifier.logits(many))


def test_what_a_defence_was_built_from_is_saved_and_not_what_the_run_had(
    tmp_path: Path,
    backbone: CausalBackbone,
    model_dir: Path,
    task: Task,
    prefix: Prefix,
    spaces: Subspaces,
) -> None:
    named = dataclasses.replace(prefix, base_model=str(model_dir))
    had = Fitted(synonyms=SynonymClusters({"fine": "good"}), subspaces=spaces)
    classifier = PrefixClassifier(backbone, task, named, fitted=had)
    moved = _moved(spaces)
    assert moved.fingerprint != spaces.fingerprint
    other = Synonyms(SynonymClusters({"flat": "dull"}), RobustPrefix(moved, steps=1))
    defended = classifier.with_defense(other)
    assert defended.fitted.synonyms == other.clusters
    defended.save_pretrained(tmp_path)
    again = PrefixClassifier.from_pretrained(tmp_path, dtype="float32")
    assert again.subspaces is not None
    assert again.subspaces.fingerprint == moved.fingerprint
    many = ["the film is fine", "a flat plot"]
    torch.testing.assert_close(again.logits(many), defended.logits(many))
    assert classifier.fitted.synonyms is had.synonyms


def _moved(spaces: Subspaces) -> Subspaces:
    layers = {
        number: dataclasses.replace(layer, mean=layer.mean + 1)
        for number, layer in spaces.layers.items()
    }
    return dataclasses.replace(spaces, layers=layers)


def test_parts_built_from_different_tables_are_refused(
    classifier: PrefixClassifier, spaces: Subspaces
) -> None:
    moved = _moved(spaces)
    with pytest.raises(ConfigError, match="expected one set of subspaces for all parts"):
        classifier.with_defense(Gate(spaces, RobustPrefix(moved)))


def test_another_defence_shares_the_model(classifier: PrefixClassifier, spaces: Subspaces) -> None:
    defended = classifier.with_defense(RobustPrefix(spaces))
    assert defended.model.backbone is classifier.model.backbone
    assert classifier.defense.spec == "none"
    assert defended.defense.spec.startswith("robust-prefix(")


def test_a_run_on_another_base_model_is_refused(
    tmp_path: Path, classifier: PrefixClassifier, tokenizer: PreTrainedTokenizerFast
) -> None:
    classifier.save_pretrained(tmp_path)
    other = tiny_backbone("llama", tokenizer, seed=1)
    with pytest.raises(ArtifactError, match="got one trained on tiny-llama"):
        PrefixClassifier.from_pretrained(tmp_path, backbone=other)


def test_a_defence_without_its_subspaces_is_refused(
    tmp_path: Path, classifier: PrefixClassifier, backbone: CausalBackbone
) -> None:
    classifier.save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="run robust-prefix fit-subspaces on the run first"):
        PrefixClassifier.from_pretrained(tmp_path, defense="robust-prefix", backbone=backbone)
