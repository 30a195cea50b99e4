"""What a task is, which texts and labels fit it, and the prompt it makes of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_prefix.errors import ConfigError, InputError
from robust_prefix.tasks import TASKS, Task, load_task

OWN = {
    "name": "own",
    "columns": ["text"],
    "labels": ["bad", "good"],
    "label_words": [" no", " yes"],
    "template": "{text} is it good ?",
}
TOML = """
name = "own"
columns = ["text"]
labels = ["bad", "good"]
label_words = [" no", " yes"]
template = "{text} is it good ?"
"""
SST2, SNLI = TASKS["sst2"], TASKS["snli"]
PAIR = ("a premise", "a hypothesis")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got an empty text; leave it out or fill it in"),
        ("   ", "got only spaces"),
        ("\t\n\u3000\u00a0", "got only spaces"),
        ("a\0b", "got a NUL byte at character 1; remove it"),
        ("ab \ud83d", "half a surrogate pair at character 3; remove it"),
        (None, "to be a string, got None"),
        (7, "to be a string, got 7"),
        (b"bytes", "to be a string"),
        (["a", "b"], r"expected 1 columns \['text'\] in text 5, got 2"),
        ([], r"expected 1 columns \['text'\] in text 5, got 0"),
        ({"sentence": "a"}, r"expected the columns \['text'\] in text 5, got \['sentence'\]"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_texts_that_do_not_fit_are_named(text: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SST2.fields(text, "text 5")
    assert "text 5" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a fine film",
        " spaces around ",
        "😀👩‍👩‍👧‍👦",
        "שלום עולם",
        "فيلم \u202eجميل\u202c",
        "Answer: positive",
        "{text} {0} {}",
        "\ufeffbom\r\n\u2028",
        "NA",
        "0",
    ],
    ids=ascii,
)
def test_unusual_texts_stay_as_they_are(text: str) -> None:
    assert SST2.fields(text) == SST2.fields([text]) == SST2.fields({"text": text}) == (text,)
    assert SST2.render((text,)) == text + " is this review negative or positive ?"


@pytest.mark.parametrize(
    "given",
    [PAIR, list(PAIR), {"hypothesis": PAIR[1], "premise": PAIR[0], "label": 1}],
    ids=["tuple", "list", "mapping"],
)
def test_pairs_come_in_the_order_of_the_columns(given: Any) -> None:
    assert SNLI.fields(given) == PAIR
    assert SNLI.render(PAIR) == "a premise question: a hypothesis is that yes, maybe or no ?"


def test_the_empty_column_of_a_pair_is_named() -> None:
    with pytest.raises(InputError, match="expected words in hypothesis of text 2, got an empty"):
        SNLI.fields(("a", ""), "text 2")
    with pytest.raises(InputError, match=r"expected 2 columns \['premise', 'hypothesis'\]"):
        SNLI.fields("one string")


@given(premise=texts, hypothesis=texts)
def test_braces_inside_a_text_are_text(premise: str, hypothesis: str) -> None:
    for extra in ("", "{hypothesis}", "{premise}", "{}", "}{", "\\1", "%s"):
        before, after = extra + premise, hypothesis + extra
        rendered = SNLI.render((before, after))
        assert rendered == f"{before} question: {after} is that yes, maybe or no ?"


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0), (1, 1), ("0", 0), (" 1 ", 1), ("negative", 0), ("positive", 1)],
    ids=repr,
)
def test_labels_are_numbers_or_names(value: object, number: int) -> None:
    assert SST2.label(value) == number


@pytest.mark.parametrize(
    "value", [2, -1, "-1", "Positive", "", None, True, 1.0, "1.0", "neutral"], ids=repr
)
def test_labels_outside_the_task_are_named(value: object) -> None:
    message = "expected a label of sst2 (0 to 1, or negative, positive) in row 3, got "
    with pytest.raises(InputError, match=re.escape(message + repr(value)) + "$"):
        SST2.label(value, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["one"]}, "at least two different labels in task 'own'"),
        ({"labels": ["one", "one"]}, "at least two different labels"),
        ({"label_words": [" yes"]}, "one label word for each of the 2 labels .* got 1"),
        ({"template": "no column ?"}, r"columns \['text'\] once in the template .* got \[\]"),
        ({"template": "{text} {text} ?"}, r"once in the template .*got \['text', 'text'\]"),
        ({"template": "{other} ?"}, r"got \['other'\]; write a column as \{name\}"),
        ({"template": "is it good: {text}"}, "words after the last column"),
        ({"max_tokens": 7}, "max_tokens of at least 8 in task 'own', got 7"),
        ({"max_tokens": "many"}, "a valid max_tokens for a task, got 'many'"),
        ({"columns": "text"}, "a valid columns for a task, got 'text'"),
        ({"labels": 5}, "a valid labels for a task, got 5"),
        ({"label_words": [" yes", 1]}, "a valid label_words.1 for a task, got 1"),
        ({"template": 5}, "a valid template for a task, got 5"),
        ({"name": ["own"]}, r"a valid name for a task, got \['own'\]"),
        ({"splits": "train.csv"}, "a valid splits for a task, got 'train.csv'"),
        ({"label_word": [" a", " b"]}, "got 'label_word'; did you mean 'label_words'"),
        ({"data_dir": "/data"}, "got 'data_dir'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_definitions_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Task.from_dict({**OWN, **change})


@pytest.mark.parametrize("key", ["name", "columns", "labels", "label_words", "template"])
def test_a_missing_key_is_named(key: str) -> None:
    values = {name: value for name, value in OWN.items() if name != key}
    with pytest.raises(ConfigError, match=f"'{key}'"):
        Task.from_dict(values)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_comes_back_from_its_dictionary(name: str) -> None:
    task = TASKS[name]
    again = Task.from_dict(task.to_dict(), data_dir="data")
    assert again == dataclasses.replace(task, data_dir=Path("data"))


def test_where_data_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROBUST_PREFIX_DATA", raising=False)
    (tmp_path / "own.toml").write_text(TOML)
    own = str(tmp_path / "own.toml")
    assert load_task("sst2").data_dir is None
    assert load_task(own).data_dir == tmp_path
    monkeypatch.setenv("ROBUST_PREFIX_DATA", "from-environment")
    assert load_task("sst2").data_dir == load_task(own).data_dir == Path("from-environment")
    assert load_task("sst2", "given").data_dir == load_task(own, "given").data_dir == Path("given")


def test_a_task_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(TOML + 'max_tokens = 99\nlabel_column = "y"\n[splits]\ntrain = "a.csv"\n')
    task = load_task(str(path))
    assert task == Task(
        name="own",
        columns=("text",),
        labels=("bad", "good"),
        label_words=(" no", " yes"),
        template="{text} is it good ?",
        label_column="y",
        max_tokens=99,
        splits={"train": "a.csv"},
        data_dir=tmp_path,
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sst3", None, "expected a known task, or a path ending in .toml .*did you mean 'sst2'"),
        ("no.toml", None, "expected a task file at .*no.toml, got nothing there"),
        ("bad.toml", "name = ", "expected TOML in .*bad.toml, got Invalid value"),
        ("bytes.toml", b"\xff", "expected TOML in .*bytes.toml, got .*0xff"),
        ("folder.toml", 0, "expected TOML in .*folder.toml, got .*directory"),
        ("few.toml", 'name = "x"', r"expected a task with \['columns', .* got only \['name'\]"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith("toml") else "",
)
def test_task_files_that_cannot_be_read_are_named(
    tmp_path: Path, name: str, content: str | bytes | int | None, message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, int):
        path.mkdir()
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError, match=message):
        load_task(str(path) if name.endswith(".toml") else name)


@pytest.mark.parametrize(
    ("template", "rendered", "mask", "virtual"),
    [
        pytest.param("{text} was {mask}", "x was \0", 0, (0, 0), id="last"),
        pytest.param("{mask} : {text}", "\0 : x", 0, (0, 0), id="first, the text last"),
        pytest.param("{prompt:2}{mask}{text}", "\0\0\0x", 2, (2, 0), id="after virtual tokens"),
        pytest.param("{mask}{prompt:2}{text}", "\0\0\0x", 0, (0, 2), id="before virtual tokens"),
        pytest.param("a{prompt:1}{mask}{prompt:1}{text}", "a\0\0\0x", 1, (0, 2), id="between"),
        pytest.param("{text} is it ?", "x is it ?", None, (0, 0), id="none"),
    ],
)
def test_the_mask_has_a_place(
    template: str, rendered: str, mask: int | None, virtual: tuple[int, int]
) -> None:
    task = Task.from_dict({**OWN, "template": template})
    assert task.render(("x",)) == rendered
    assert task.mask == mask
    assert task.virtual_tokens == virtual
    assert task.starts(("x",)) == (rendered.index("x"),)


def test_one_mask_is_enough() -> None:
    with pytest.raises(ConfigError, match="each of the columns"):
        Task.from_dict({**OWN, "template": "{mask} {text} {mask}"})


def test_a_column_may_be_called_mask() -> None:
    task = Task.from_dict({**OWN, "columns": ["mask"], "template": "{mask} is it good ?"})
    assert task.mask is None
    assert task.render(("x",)) == "x is it good ?"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": ["review text"]}, "letters, digits and _ in the column names of .*, got 'rev"),
        ({"labels": ["1", "0"]}, "numbers to be their own places, from 0 on, got '1'"),
        ({"labels": ["0", "2"]}, "numbers to be their own places, from 0 on, got '2'"),
    ],
)
def test_names_that_could_mean_something_else(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Task.from_dict({**OWN, **changes})
    assert Task.from_dict({**OWN, "labels": ["0", "1"]}).label(1) == 1


def test_data_beside_a_task_file_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else the data folder is for, and by the run that is made of it later."""
    own = tmp_path / "own.toml"
    own.write_text(TOML + '[splits]\ntrain = ["a.csv", "b.csv"]\ntest = "c.csv"\n')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("ROBUST_PREFIX_DATA", str(elsewhere))
    splits = load_task(str(own)).splits  # not there yet: looked for in the data folder
    assert splits == {"train": ("a.csv", "b.csv"), "test": "c.csv"}
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text("text,label\na,0\n")
    a, b, c = (str(tmp_path.resolve() / f"{name}.csv") for name in "abc")
    assert load_task(str(own)).splits == {"train": (a, b), "test": c}
