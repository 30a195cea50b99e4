"""The synonyms that training draws from are those that the attacks draw from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attacks.lexicon import synonyms
from attacks.resources import find_resource, is_available
from robust_prefix.errors import ConfigError


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A data folder with a small neighbour list."""
    folder = tmp_path / "lexical"
    folder.mkdir()
    near = {"film": ["movie", "picture"], "good": ["fine", "good"], "the": ["that"]}
    (folder / "counterfitted_neighbors.json").write_text(json.dumps(near))
    return tmp_path


def test_neighbors_come_in_the_case_of_the_word(lists: Path) -> None:
    substitutes = synonyms(lists, ["counterfitted-neighbors"])
    assert substitutes("film") == ("movie", "picture")
    assert substitutes("Film") == ("Movie", "Picture")
    assert substitutes("FILM") == ("MOVIE", "PICTURE")
    assert substitutes("good") == ("fine",)
    assert substitutes("zzz") == ()


def test_stopwords_have_none(lists: Path) -> None:
    substitutes = synonyms(lists, ["counterfitted-neighbors"])
    assert substitutes("the") == substitutes("The") == ()


def test_an_unknown_source_is_named(lists: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'wordnet'"):
        synonyms(lists, ["wordnat"])


def test_wordnet_gives_what_pwws_tries(users_data_dir: str | None) -> None:
    lists = ("wordnet", "counterfitted-neighbors")
    if users_data_dir is None or not all(is_available(name, users_data_dir) for name in lists):
        pytest.skip(f"no {' or no '.join(lists)}: set ROBUST_PREFIX_DATA")
    from attacks.parts.wordnet_swap import WordNetSwap

    substitutes = synonyms(users_data_dir, ["wordnet"])
    swap = WordNetSwap(find_resource("wordnet", users_data_dir))
    for word in ("movie", "gripping", "dull"):
        assert len(substitutes(word)) >= 2
        assert set(substitutes(word)) <= set(swap._get_replacement_words(word))
    assert "Film" in substitutes("Movie")
    both = synonyms(users_data_dir)
    assert set(both("film")) > set(substitutes("film"))
