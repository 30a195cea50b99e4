"""The masked vote: copies, their combination, its place in a composition, its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from robust_prefix import PrefixClassifier
from robust_prefix.backbones import CausalBackbone
from robust_prefix.defenses import (
    Defense,
    Fitted,
    MaskedVote,
    NoDefense,
    Normalize,
    RandomPrefix,
    Synonyms,
    build_defense,
    layers,
)
from robust_prefix.errors import ConfigError
from robust_prefix.evaluation.bench import matching_controls
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.subspaces import Subspaces
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Fields, Task

TEXTS: list[Fields] = [
    ("the film is good and the cast is warm",),
    ("a dull and weak plot , poor cast",),
    ("warm",),
    ("the end is great and the start is flat and cold",),
]


@pytest.mark.parametrize("combine", ["vote", "mean"])
def test_unmasked_copies_answer_as_one(model: PrefixModel, combine: str) -> None:
    plain = NoDefense().logits(model, TEXTS)
    found = MaskedVote(copies=3, mask=0, combine=combine).logits(model, TEXTS)
    assert torch.equal(found.argmax(-1), plain.argmax(-1))
    if combine == "mean":
        torch.testing.assert_close(found, plain.log_softmax(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("inner", [None, RandomPrefix(rms=0.5)])
def test_the_answer_is_the_copies_votes_and_their_mean_one_vote_more(
    model: PrefixModel, inner: Defense[object] | None
) -> None:
    vote = MaskedVote(inner, copies=5, mask=0.6)
    for text, scores in zip(TEXTS, vote.logits(model, TEXTS), strict=True):
        copies = vote.passed_on(text)
        probabilities = vote.inner.logits(model, copies).double().softmax(-1)
        counts = torch.bincount(probabilities.argmax(-1), minlength=2)
        expected = (counts + probabilities.mean(0)) / (len(copies) + 1)
        torch.testing.assert_close(scores.exp().double(), expected, atol=1e-5, rtol=1e-4)
        assert float(scores.exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        pytest.param([[1, 0], [1, 0], [0, 9]], 0, id="votes before probabilities"),
        pytest.param([[1, 0], [0, 9]], 1, id="probabilities among equals"),
        pytest.param([[900, 0], [900, 0]], 0, id="far apart"),
    ],
)
def test_what_votes_come_to(logits: list[list[float]], expected: int) -> None:
    scores = MaskedVote().combined(torch.tensor(logits, dtype=torch.float32))
    assert torch.isfinite(scores.float()).all()
    assert int(scores.argmax()) == expected


def test_masks_are_those_of_the_length_or_those_of_the_text() -> None:
    one, two = ("the film is good and warm",), ("the film is bad and warm",)
    by_length = MaskedVote(copies=4, mask=0.75)
    masks = by_length.masks(one)
    assert np.array_equal(masks, by_length.masks(two))
    same = set(by_length.passed_on(one)) & set(by_length.passed_on(two))
    assert len(same) == 3  # all but the copy that shows the word
    by_text = MaskedVote(copies=4, mask=0.75, draw="text")
    assert not np.array_equal(by_text.masks(one), by_text.masks(two))
    assert not np.array_equal(masks, MaskedVote(copies=4, mask=0.75, seed=1).masks(one))


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"copies": 10, "mask": 0.7}, 3),
        ({"copies": 3, "mask": 0.7}, 1),
        ({"copies": 8, "mask": 0.99}, 1),
        ({"copies": 4, "mask": 0}, 4),
    ],
)
def test_in_how_many_copies_a_word_is_shown(settings: dict[str, float], shown: int) -> None:
    vote = MaskedVote(**settings)
    assert vote.config.shown == shown
    assert (vote.masks(TEXTS[3]).sum(0) == shown).all()


def test_copies_read_as_the_stand_in_says() -> None:
    text = ("a good film",)
    for stand_in, length in (("_", 3), ("none", 1), ("[MASK]", 3)):
        copies = MaskedVote(copies=3, mask=0.7, stand_in=stand_in).passed_on(text)
        assert [len(copy[0].split()) for copy in copies] == [length] * 3
        shown = sorted(word for copy in copies for word in copy[0].split() if word != stand_in)
        assert shown == ["a", "film", "good"]


def test_of_a_pair_the_last_column_alone_may_be_masked() -> None:
    pair = ("a man sleeps", "nobody is awake")
    for copy in MaskedVote(copies=3, mask=0.7, columns="last").passed_on(pair):
        assert copy[0] == pair[0]
        assert copy[1].split().count("_") == 2
    both = MaskedVote(copies=2, mask=0.5).passed_on(pair)
    assert sum(" ".join(copy).split().count("_") for copy in both) == 6
    assert any("_" in copy[0] for copy in both)


@pytest.mark.parametrize("spec", ["masked-vote", "masked-vote(draw=text, stand_in=none)"])
def test_an_answer_is_the_same_in_any_company(
    model: PrefixModel, spaces: Subspaces, spec: str
) -> None:
    texts = [(f"{text[0]} {number} times",) for number in range(4) for text in TEXTS]
    for defense in (
        build_defense(spec),
        build_defense(f"{spec}+robust-prefix(steps=2)", Fitted(spaces)),
    ):
        together = defense.logits(model, texts, batch_size=32)
        alone = torch.cat([defense.logits(model, [text], batch_size=2) for text in texts])
        assert together.std() > 0.05
        torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-3)


def test_it_stands_behind_what_reads_text_and_before_what_answers(spaces: Subspaces) -> None:
    clusters = SynonymClusters({"great": "good"})
    spec = "normalize+synonyms+masked-vote(copies=3)+robust-prefix(steps=2)"
    built = build_defense(spec, Fitted(spaces, clusters))
    found = [type(layer).name for layer in layers(built)]
    assert found == ["normalize", "synonyms", "masked-vote", "robust-prefix"]
    assert built.dynamic
    assert build_defense(built.spec, Fitted(spaces, clusters)).spec == built.spec
    assert isinstance(built, Normalize)
    assert built.read(("a gr\u0435at film",)) == ("a good film",)
    for wrong in ("masked-vote+normalize", "masked-vote+synonyms"):
        with pytest.raises(ConfigError, match="the other way round"):
            build_defense(wrong, Fitted(spaces, clusters))
    with pytest.raises(ConfigError, match="'masked-vote' twice"):
        build_defense("masked-vote+masked-vote")


def test_the_outer_defence_reads_the_text_first(model: PrefixModel) -> None:
    clusters = SynonymClusters({"great": "good"})
    vote = MaskedVote(copies=3, mask=0.7)
    outer = Synonyms(clusters, vote)
    found = outer.logits(model, [("a great film",)])
    torch.testing.assert_close(found, vote.logits(model, [("a good film",)]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param("mask=1", "valid mask", id="nothing shown"),
        pytest.param("copies=0", "valid copies", id="no copies"),
        pytest.param("stand_in=a b", "valid stand_in", id="two words"),
        pytest.param("maks=0.5", "did you mean 'mask'", id="typo"),
    ],
)
def test_bad_settings(settings: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_defense(f"masked-vote({settings})")


def test_cost_counts_each_different_copy_once(model: PrefixModel) -> None:
    vote = MaskedVote(RandomPrefix(rms=0.1), copies=4, mask=0.75)
    vote.logits(model, [("the film is good and warm",)])
    assert vote.cost.forward == pytest.approx(4)
    # the candidates of an attack differ in one word, which one copy of each shows
    vote.logits(model, [("the film is good and warm",), ("the film is bad and warm",)])
    assert vote.cost.forward == pytest.approx(4 + 5)
    assert vote.cost.backward == 0


def test_the_control_of_what_is_inside_is_measured_on_copies(
    backbone: CausalBackbone, task: Task, prefix: Prefix, spaces: Subspaces
) -> None:
    classifier = PrefixClassifier(backbone, task, prefix, fitted=Fitted(spaces))
    defense = build_defense("masked-vote(copies=3)+robust-prefix(steps=2)", Fitted(spaces))
    [control] = matching_controls(classifier, defense, TEXTS, [0])
    outer, _, inner = control.partition("+")
    assert outer == MaskedVote(copies=3).spec
    vote, tuned = layers(defense)
    assert isinstance(vote, MaskedVote)
    copies = [copy for text in TEXTS for copy in vote.passed_on(text)]
    assert inner == RandomPrefix.matching(tuned, classifier.model, copies).spec  # type: ignore[arg-type]


LABELS = [1, 0, 1, 0]


@contextmanager
def moved(model: PrefixModel, token: int, change: torch.Tensor) -> Iterator[None]:
    """One token's embedding is another for a while."""
    matrix = model.backbone.model.get_input_embeddings().weight
    before = matrix[token].clone()
    with torch.no_grad():
        matrix[token] += change
        try:
            yield
        finally:
            matrix[token] = before


@pytest.mark.parametrize("combine", ["vote", "mean"])
@pytest.mark.parametrize("words", ["good cast", "plot , weak"])
def test_gradients_are_the_slope_of_the_loss_at_a_word(
    model: PrefixModel, combine: str, words: str
) -> None:
    """A word that occurs once is moved in every copy that shows it, and nowhere else."""
    text: Fields = ("the film is good and the cast is warm , the plot dull but not weak",)
    defense = MaskedVote(copies=5, mask=0.4, combine=combine)
    for label in (0, 1):
        [found] = defense.gradients(model, [text], [label])
        plain = defense.logits(model, [text]).double()
        assert found.loss == pytest.approx(
            cross_entropy(plain, torch.tensor([label])).item(), abs=1e-4
        )
        for word in words.replace(",", "").split():
            [token] = model.backbone.tokenize([f" {word}"])[0]
            place = found.tokens.index(token)
            gradient = torch.from_numpy(found.gradient[place])
            assert gradient.norm() > 1e-3
            direction = gradient / gradient.norm()
            losses = []
            for step in (2e-3, -2e-3):
                with moved(model, token, step * direction):
                    scores = defense.logits(model, [text]).double()
                losses.append(cross_entropy(scores, torch.tensor([label])).item())
            slope = (losses[0] - losses[1]) / 4e-3
            assert slope == pytest.approx(float(gradient.norm()), rel=3e-2)


def test_gradients_lie_where_the_text_is(model: PrefixModel) -> None:
    defense = MaskedVote(copies=4, mask=0.5, stand_in="none")
    found = defense.gradients(model, TEXTS, LABELS)
    plain = NoDefense().gradients(model, TEXTS, LABELS)
    for ours, theirs in zip(found, plain, strict=True):
        assert (ours.tokens, ours.spans) == (theirs.tokens, theirs.spans)
        assert ours.gradient.shape == theirs.gradient.shape
        for span, row in zip(ours.spans, ours.gradient, strict=True):
            assert (np.abs(row).max() > 0) == (span is not None)
    [alone] = defense.gradients(model, TEXTS[1:2], LABELS[1:2])
    np.testing.assert_allclose(alone.gradient, found[1].gradient, atol=1e-4)
    wrapped = Normalize(defense).gradients(model, [("a dull and we\u0430k plot , poor cast",)], [0])
    assert wrapped[0].tokens == plain[1].tokens
