"""Synonym clusters: what is promised for them, and the defence and the training behind them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robust_prefix import PrefixClassifier
from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import TrainingConfig
from robust_prefix.defenses import Fitted, Normalize, Synonyms, build_defense, layers
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation.bench import matching_controls
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.synonyms import SynonymClusters, fit_synonyms, word_counts
from robust_prefix.tasks import Fields, Task
from robust_prefix.training import train_prefix

NEAR = {
    "good": ("fine", "great"),
    "great": ("good", "grand"),
    "bad": ("poor",),
    "film": ("movie", "picture"),
    "picture": ("film", "image"),
}
TEXTS: list[Fields] = [("Good film , good film",), ("a great film",), ("bad picture",)]


def substitutes(word: str) -> Sequence[str]:
    return NEAR.get(word, ())


CLUSTERS = fit_synonyms(TEXTS, substitutes, sources=["toy"])


def test_clusters_are_stars_around_the_most_frequent_words() -> None:
    assert CLUSTERS.representative == {
        "movie": "film",
        "picture": "film",
        "fine": "good",
        "great": "good",
        "poor": "bad",
    }
    # "grand" is near "great" alone, which is taken: no chain leads from it to "good"
    assert CLUSTERS.read_as("grand") == "grand"
    assert CLUSTERS.config == {"sources": ["toy"], "rare": 0, "training_words": 6}


RARE = fit_synonyms(TEXTS, substitutes, rare=2)


def test_rare_words_alone_are_read_as_their_most_frequent_synonym() -> None:
    # "film" and "good" occur twice or more; "grand" and "poor" have no synonym that does
    assert RARE.representative == {
        "movie": "film",
        "picture": "film",
        "fine": "good",
        "great": "good",
    }
    assert RARE.config["rare"] == 2


def test_words_that_are_left_alone_stand_for_none() -> None:
    lists = {"accept": ("have", "take"), "take": ("accept", "have")}
    texts: list[Fields] = [("have have have take take me",)]
    found = fit_synonyms(texts, lambda word: lists.get(word, ()), rare=2)
    assert found.representative == {"accept": "take"}


def test_a_record_names_its_clusters() -> None:
    other = SynonymClusters({"movie": "picture"})
    assert other.fingerprint != CLUSTERS.fingerprint
    spec = build_defense("synonyms", Fitted(synonyms=CLUSTERS)).spec
    assert build_defense(spec, Fitted(synonyms=CLUSTERS)).spec == spec
    with pytest.raises(ArtifactError, match="which were fitted since; leave out table="):
        build_defense(spec, Fitted(synonyms=other))


@given(st.integers(1, 5))
def test_what_is_read_instead_is_never_rare(rare: int) -> None:
    counts = word_counts(TEXTS)
    words = fit_synonyms(TEXTS, substitutes, rare=rare).representative
    assert all(counts[word] < rare <= counts[instead] for word, instead in words.items())
    # and so reading what was read changes nothing
    assert not set(words) & set(words.values())


def test_words_are_read_in_their_case() -> None:
    assert [CLUSTERS.read_as(word) for word in ("great", "Great", "GREAT", "zzz")] == [
        *("good", "Good", "GOOD", "zzz")
    ]


MEMBERS = [["film", "movie", "picture"], ["good", "fine", "great"], ["bad", "poor"], ["plot"]]


@given(st.lists(st.sampled_from(MEMBERS), min_size=1, max_size=8), st.data())
def test_substitutions_inside_a_cluster_change_nothing(
    groups: list[list[str]], data: st.DataObject
) -> None:
    first, second = (
        " ".join(data.draw(st.sampled_from(group)) for group in groups) for _ in range(2)
    )
    defense = Synonyms(CLUSTERS)
    assert defense.rewrite(first).text == defense.rewrite(second).text


def test_a_control_reads_the_same_words_as_others(
    backbone: CausalBackbone, task: Task, prefix: Prefix
) -> None:
    fitted = Fitted(synonyms=CLUSTERS)
    classifier = PrefixClassifier(backbone, task, prefix, fitted=fitted)
    defense = build_defense("normalize+synonyms", fitted)
    texts: list[Fields] = [("a fine movie , grand picture",)]
    specs = matching_controls(classifier, defense, texts, [0, 1, 2])
    assert len(set(specs)) == 3
    read = set()
    for spec in specs:
        control = build_defense(spec, fitted)
        assert control.spec == spec
        [found] = [layer for layer in layers(control) if isinstance(layer, Synonyms)]
        dealt = found.clusters.representative
        assert dealt.keys() == CLUSTERS.representative.keys()
        assert sorted(dealt.values()) == sorted(CLUSTERS.representative.values())
        read.add(tuple(dealt.items()))
        assert matching_controls(classifier, control, texts, [0]) == ()
    assert len(read | {tuple(sorted(CLUSTERS.representative.items()))}) > 2
    assert matching_controls(classifier, defense, texts, []) == ()


def test_the_answers_are_the_same_too(model: PrefixModel) -> None:
    texts: list[Fields] = [("the film is good",), ("the movie is great",), ("the plot is good",)]
    found = Synonyms(CLUSTERS).logits(model, texts)
    # rows of one batch, so equal up to rounding only
    torch.testing.assert_close(found[0], found[1])
    assert not torch.allclose(found[0], found[2], rtol=1e-3)
    plain = build_defense("none").logits(model, texts)
    assert not torch.allclose(plain[0], plain[1], rtol=1e-3)


def test_order_in_a_composition_is_checked() -> None:
    built = build_defense("normalize+synonyms", Fitted(synonyms=CLUSTERS))
    assert isinstance(built, Normalize)
    assert built.read(("a grewt movie",)) == ("a good film",)
    with pytest.raises(ConfigError, match="expected 'normalize' before 'synonyms'"):
        build_defense("synonyms+normalize", Fitted(synonyms=CLUSTERS))


def test_clusters_are_saved_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.json"
    CLUSTERS.save(path)
    assert SynonymClusters.load(path) == CLUSTERS
    for other in ({"kind": "prefix", "words": {}}, [], ["words"], 5):
        path.write_text(json.dumps(other))
        with pytest.raises(ArtifactError, match="expected synonym clusters of version 1"):
            SynonymClusters.load(path)


def test_a_prefix_is_trained_on_what_is_read(
    backbone: CausalBackbone, task: Task, tmp_path: Path
) -> None:
    """Where every word but two is read as one of these, training sees no other words."""
    words = {word: "good" for word in ("fine", "lovely", "great", "bright", "warm")}
    words |= {word: "bad" for word in ("dull", "weak", "poor", "cold", "flat")}
    reader = Synonyms(SynonymClusters(words))
    config = TrainingConfig(epochs=4, batch_size=8, learning_rate=0.05)
    prefix = train_prefix(backbone, task, training=config, reader=reader)
    assert prefix.config["reader"] == reader.spec
    clf = PrefixClassifier(backbone, task, prefix, reader, Fitted(synonyms=reader.clusters))
    clf.save_pretrained(tmp_path)
    again = PrefixClassifier.from_pretrained(tmp_path, backbone=backbone)
    texts = ["the film is lovely and warm", "the plot is dull"]
    assert torch.equal(again.logits(texts), clf.logits(texts))
    assert again.defense.spec == f"synonyms(table={reader.clusters.fingerprint})"
    same = again.logits(["the film is good and good", "the plot is bad"])
    torch.testing.assert_close(again.logits(texts), same)
