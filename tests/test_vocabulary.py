"""The words of a task: what normalize corrects to where it has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_prefix.defenses import Fitted, Normalize, build_defense
from robust_prefix.ensembling import check_alike
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.prefixes import Prefix
from robust_prefix.runs import Run
from robust_prefix.tasks import Task
from robust_prefix.vocabulary import Vocabulary

FAMILY, NAMES = "the gripping story of a dull family", "wasabi , less lazy than soapdish"
TEXTS = [(f"{FAMILY} {n}",) for n in range(30)] + [(f"{NAMES} {n}",) for n in range(2)]
VOCABULARY = Vocabulary.of(TEXTS, examples=len(TEXTS))
ENGLISH, OF_THE_TASK = Normalize(), Normalize(words=VOCABULARY)


@pytest.mark.parametrize(
    ("attacked", "english", "expected"),
    [
        pytest.param(
            "a boring dll", "a boring all", "a boring dull", id="another is more frequent"
        ),
        pytest.param(
            "a tory of a family", "a tory of a family", "a story of a family", id="a slip"
        ),
        pytest.param("a griping plot", "a griping plot", "a gripping plot", id="one of a letter"),
        pytest.param("in Moapdish", "in Moapdish", "in soapdish", id="a name that the task has"),
        pytest.param("like wasabi", "like wasabi", "like wasabi", id="a name as it is"),
        pytest.param("a flair for this", "a flair for this", "a flair for this", id="a new word"),
    ],
)
def test_a_word_of_the_task_was_meant(attacked: str, english: str, expected: str) -> None:
    assert ENGLISH.rewrite(attacked).text == english
    assert OF_THE_TASK.rewrite(attacked).text == expected


@given(st.lists(st.sampled_from(sorted(VOCABULARY.counts)), max_size=8).map(" ".join))
def test_words_that_the_task_has_stay(text: str) -> None:
    assert OF_THE_TASK.rewrite(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a film by Mark", id="a name in a text of small letters"),
        pytest.param("he does not have, it is nut", id="no n't"),
        pytest.param("he stood in st", id="two words are two"),
        pytest.param("the eye opener", id="two words that are one of the list"),
    ],
)
def test_what_the_task_never_had_stays_where_nothing_is_near(text: str) -> None:
    assert OF_THE_TASK.rewrite(text).text == ENGLISH.rewrite(text).text == text


def test_words_are_looked_up_as_they_are_written() -> None:
    seen = Vocabulary({"na\u00efve": 5, "naive": 1, "caf\u00e9": 3})
    latin = Normalize(words=seen)
    assert latin.rewrite("a na\u00efve caf\u00e9").text == "a naive cafe"
    assert latin.words is not None
    assert dict(latin.words.counts) == {"naive": 6, "cafe": 3}
    assert f"vocabulary={seen.fingerprint}" in latin.spec
    assert Normalize(words=seen, characters="keep").words is seen


def test_a_text_that_comes_again_counts_once() -> None:
    pairs = [("a man on a motorcyle", hypothesis) for hypothesis in ("he rides", "he sleeps")]
    assert Vocabulary.of(pairs).counts["motorcyle"] == 1
    assert Vocabulary.of(pairs) == Vocabulary.of([*pairs[:1], ("he sleeps",)])


def test_a_task_without_words_has_the_list_alone() -> None:
    nothing = Normalize(words=Vocabulary.of([("123 !",)]))
    for text in ("a boring dll", "a tory of a son", "like wasabi"):
        assert nothing.rewrite(text).text == ENGLISH.rewrite(text).text


def test_a_record_names_its_vocabulary() -> None:
    fitted = Fitted(vocabulary=VOCABULARY)
    built = build_defense("normalize", fitted)
    assert f"vocabulary={VOCABULARY.fingerprint}" in built.spec
    assert build_defense(built.spec, fitted).spec == built.spec
    for spec in ("normalize(vocabulary=none)", "normalize(spelling=none)"):
        without = build_defense(spec, fitted)
        assert isinstance(without, Normalize)
        assert without.words is None
        assert VOCABULARY.fingerprint not in without.spec
        assert build_defense(without.spec, fitted).spec == without.spec
    assert "vocabulary" not in build_defense("normalize").spec
    others = Fitted(vocabulary=Vocabulary({"film": 1}))
    for other in (others, Fitted()):
        with pytest.raises(ArtifactError, match=r"expected the vocabulary .* run .*fit-spelling"):
            build_defense(built.spec, other)


def test_what_was_saved_is_read_again(tmp_path: Path) -> None:
    VOCABULARY.save(tmp_path / "vocabulary.json")
    found = Vocabulary.load(tmp_path / "vocabulary.json")
    assert (dict(found.counts), found.config) == (dict(VOCABULARY.counts), VOCABULARY.config)
    assert found.fingerprint == VOCABULARY.fingerprint


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": "synonyms", "version": 1, "words": {"film": "movie"}},
        [],
        {"kind": "vocabulary", "version": 1, "words": {"film": 1}, "config": None},
        {"kind": "vocabulary", "version": 2, "words": {"film": 1}, "config": {}},
        {"kind": "vocabulary", "version": 1, "words": ["film"], "config": {}},
        {"kind": "vocabulary", "version": 1, "words": {"film": 0}, "config": {}},
        {"kind": "vocabulary", "version": 1, "words": {"film": "often"}, "config": {}},
        {"kind": "vocabulary", "version": 1, "words": {"film": True}, "config": {}},
    ],
)
def test_another_file_is_refused(tmp_path: Path, values: object) -> None:
    (tmp_path / "vocabulary.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ArtifactError, match="fit-spelling again"):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_runs_of_other_words_are_not_put_together(task: Task, prefix: Prefix) -> None:
    runs = [Run(task, prefix, vocabulary=words) for words in (VOCABULARY, Vocabulary({"film": 1}))]
    with pytest.raises(ConfigError, match="agree in vocabulary, got another in run 2"):
        check_alike(runs)
    check_alike([runs[0], Run(task, prefix, vocabulary=Vocabulary(VOCABULARY.counts))])
