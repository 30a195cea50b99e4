"""Where resources are looked for, what stands in for them, and what is said where they lack."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from attacks import list_attacks
from attacks.resources import debian_wordnet, find_resource, is_available
from attacks.resources.nltk_data import nltk_root
from robust_prefix.errors import ConfigError, ResourceError


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with no NLTK data and no ``wordnet-base``."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(debian_wordnet, "FOLDER", tmp_path / "no-wordnet-base")


def put_stopwords(folder: Path, word: str) -> None:
    corpus = folder / "corpora" / "stopwords"
    corpus.mkdir(parents=True)
    (corpus / "english").write_text(f"{word}\n")


def words(found_in: str | Path | None) -> tuple[str, list[str]]:
    found = find_resource("stopwords", found_in)
    text = nltk_root(found).join("english").open("utf8").read()
    return found.origin, text.split()


@pytest.mark.usefixtures("bare")
def test_places_are_searched_in_order(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    origin, fallback = words(None)
    assert origin == "substitute"
    assert {"the", "and"} <= set(fallback)
    put_stopwords(own_cache / "nltk_data", "cached")
    assert words(None) == ("cache", ["cached"])
    put_stopwords(tmp_path / "usual", "usual")
    nltk.data.path.append(str(tmp_path / "usual"))
    assert words(None) == ("nltk", ["usual"])
    put_stopwords(tmp_path / "data" / "nltk_data", "own")
    assert words(tmp_path / "data") == ("data-dir", ["own"])
    # The folder of an earlier call is not taken for one of NLTK's.
    assert words(None) == ("nltk", ["usual"])
    monkeypatch.setenv("ROBUST_PREFIX_DATA", str(tmp_path / "data"))
    assert words(None) == ("data-dir", ["own"])


@pytest.mark.usefixtures("bare")
def test_the_substitute_is_written_once_and_stays_marked(own_cache: Path) -> None:
    first = find_resource("stopwords")
    written = first.path / "english"
    before = written.stat().st_mtime_ns
    second = find_resource("stopwords")
    assert second == first
    assert second.origin == "substitute"
    assert written.stat().st_mtime_ns == before
    assert written.is_relative_to(own_cache)


@pytest.mark.usefixtures("bare")
@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_derived_folders_are_private_whatever_the_umask() -> None:
    # NLTK 3.10 refuses to read what a group may write to, and 002 is the umask of many systems.
    old = os.umask(0o002)
    try:
        found = find_resource("stopwords")
    finally:
        os.umask(old)
    for path in (found.path / "english", found.path, found.path.parent, found.path.parent.parent):
        assert not stat.S_IMODE(path.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH), path


@pytest.mark.usefixtures("bare")
def test_a_missing_resource_is_one_line_with_the_command_that_gets_it(own_cache: Path) -> None:
    assert not is_available("wordnet")
    with pytest.raises(ResourceError) as caught:
        find_resource("wordnet")
    message = str(caught.value)
    assert "\n" not in message
    assert "'wordnet'" in message
    assert f"python -m nltk.downloader -d {own_cache}/nltk_data wordnet" in message
    assert "apt-get install wordnet-base" in message
    assert not own_cache.exists()


@pytest.mark.usefixtures("bare")
def test_a_broken_archive_is_named(own_cache: Path) -> None:
    archive = own_cache / "nltk_data" / "corpora" / "wordnet.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"PK: half a download")
    assert not is_available("wordnet")
    with pytest.raises(ResourceError, match=r"expected a zip archive at .*wordnet\.zip"):
        find_resource("wordnet")


def test_an_unknown_resource_is_met_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'wordnet'"):
        find_resource("wordnett")


def test_checksums_follow_the_contents(tmp_path: Path) -> None:
    for folder, word in (("a", "one"), ("b", "one"), ("c", "two")):
        put_stopwords(tmp_path / folder / "nltk_data", word)
    sums = [find_resource("stopwords", tmp_path / folder).sha256 for folder in "abc"]
    assert sums[0] == sums[1] != sums[2]
    assert len(sums[0]) == 64


@pytest.mark.usefixtures("bare")
def test_debians_database_is_packed_for_nltk(
    toy_wordnet: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian_wordnet, "FOLDER", toy_wordnet)
    assert is_available("wordnet")
    assert not own_cache.exists()
    found = find_resource("wordnet")
    assert found.origin == "debian"
    with zipfile.ZipFile(found.path) as archive:
        lexnames = archive.read("wordnet/lexnames").decode().splitlines()
        senses = archive.read("wordnet/index.sense").decode().splitlines()
        assert archive.read("wordnet/data.adj") == (toy_wordnet / "data.adj").read_bytes()
    assert len(lexnames) == 45
    assert lexnames[37] == "37\tverb.emotion\t2"
    offsets = [line[:8] for line in (toy_wordnet / "data.adj").read_text().splitlines()[1:]]
    assert senses == sorted(senses)
    # key, offset, rank among the senses, count: of a satellite the key names the head adjective
    assert {
        f"charming%5:00:00:good:00 {offsets[1]} 1 0",
        f"charming%5:00:00:good:00 {offsets[2]} 2 0",
        f"solid%3:00:00:: {offsets[0]} 1 0",
    } <= set(senses)
    assert any(s.startswith("movie%1:10:00:: ") and s.endswith(" 1 7") for s in senses)


@pytest.mark.usefixtures("bare")
def test_packing_is_reproducible(
    toy_wordnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian_wordnet, "FOLDER", toy_wordnet)
    for name in ("one.zip", "two.zip"):
        debian_wordnet.pack(tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.usefixtures("bare")
def test_a_damaged_database_is_one_error_and_leaves_nothing(
    toy_wordnet: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in toy_wordnet.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "data.noun").write_text("00000000 10 n\n")
    monkeypatch.setattr(debian_wordnet, "FOLDER", damaged)
    with pytest.raises(ResourceError, match="reinstall it: apt-get"):
        find_resource("wordnet")
    assert not list(own_cache.rglob("*.zip*"))


@pytest.mark.usefixtures("bare", "encoder")
def test_the_list_says_what_is_missing_and_how_to_get_it(
    data_dir: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_name = {info.name: info for info in list_attacks()}
    assert list(by_name) == sorted(by_name)
    assert by_name["deepwordbug"].runnable
    assert by_name["deepwordbug"].command is None
    assert not by_name["pwws"].runnable
    assert by_name["pwws"].missing == ("wordnet",)
    assert str(by_name["pwws"].command).startswith("python -m nltk.downloader -d ")
    assert not own_cache.exists()
    # What this folder does not have: models, of which packages carry some.
    models = {"bert-base-uncased", "distilroberta-base", "language-model"}
    assert {name for info in list_attacks(data_dir) for name in info.missing} <= models


def test_without_textattack_the_list_and_the_error_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    import importlib.util
    import sys

    from attacks.textattack_import import import_textattack

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "textattack" else real(n, *a)
    )
    monkeypatch.delitem(sys.modules, "textattack", raising=False)
    attacks = list_attacks(data_dir)
    without = {info.name for info in attacks if "textattack" not in info.missing}
    assert {"greedy-substitution", "random-substitution", "viper"} <= without
    assert "deepwordbug" not in without
    for info in attacks:
        if info.name not in without:
            assert info.missing == ("textattack",)
            assert info.command == 'pip install "robust-prefix[attacks]"'
    with pytest.raises(ResourceError, match=r'run: pip install "robust-prefix\[attacks\]"'):
        import_textattack(data_dir)
