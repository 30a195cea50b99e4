"""Ensembles: the members' answers in one batch, whatever their length and the architecture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from robust_prefix import PrefixClassifier
from robust_prefix.backbones import Backbone, CausalBackbone
from robust_prefix.defenses import Ensemble, Fitted, MaskedVote, NoDefense, build_defense
from robust_prefix.ensembling import ensemble_runs
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.prefixes import Prefix, PrefixModel, margins
from robust_prefix.runs import Run
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Fields, Task

from .families import tiny_encoder

TEXTS: list[Fields] = [
    ("the film is good",),
    ("a dull and weak plot , poor cast",),
    ("warm",),
    ("the end is great and the start is flat and cold",),
]


def random_prefix(backbone: Backbone, length: int, seed: int) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(backbone.prefix_shape(length), generator=generator)
    return Prefix(tensor, backbone.name, backbone.fingerprint)


@pytest.fixture
def members(backbone: CausalBackbone) -> tuple[Prefix, ...]:
    """Two prefixes beside the classifier's own, which is of length 4."""
    return random_prefix(backbone, 4, 7), random_prefix(backbone, 4, 8)


def alone(model: PrefixModel, prefixes: tuple[Prefix, ...]) -> torch.Tensor:
    """Each prefix's own scores ``(prefixes, texts, classes)``."""
    models = [PrefixModel(model.backbone, model.task, prefix) for prefix in prefixes]
    return torch.stack([NoDefense().logits(each, TEXTS) for each in models])


@pytest.mark.parametrize("lengths", [(4, 4), (2, 4), (4, 3), (6, 1)])
def test_members_answer_as_they_do_alone(
    any_backbone: CausalBackbone, task: Task, lengths: tuple[int, int]
) -> None:
    """Of other lengths and with learned positions, too."""
    prefixes = tuple(random_prefix(any_backbone, n, seed) for seed, n in enumerate(lengths))
    model = PrefixModel(any_backbone, task, prefixes[0])
    expected = alone(model, prefixes)
    assert (expected[0] - expected[1]).abs().max() > 0.05
    found = Ensemble(prefixes[1:]).logits(model, TEXTS)
    mean = expected.softmax(-1).mean(0).log()
    torch.testing.assert_close(found, mean, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("lengths", [(4, 4), (4, 2)])
@pytest.mark.parametrize("head", [False, True])
def test_members_answer_as_they_do_alone_on_an_encoder(
    task: Task, lengths: tuple[int, int], head: bool
) -> None:
    encoder = tiny_encoder("bert")
    template = "{text} is it good ?" if head else "{text} . it was {mask} ."
    asked = dataclasses.replace(task, template=template, max_tokens=64)
    prefixes = [random_prefix(encoder, n, seed) for seed, n in enumerate(lengths)]
    if head:
        weights = torch.randn(
            2, encoder.hidden_size + 1, generator=torch.Generator().manual_seed(0)
        )
        prefixes = [
            dataclasses.replace(prefix, head=sign * weights)
            for prefix, sign in zip(prefixes, (1, -0.5), strict=True)
        ]
    model = PrefixModel(encoder, asked, prefixes[0])
    mean = alone(model, tuple(prefixes)).softmax(-1).mean(0).log()
    found = Ensemble(prefixes[1:]).logits(model, TEXTS)
    torch.testing.assert_close(found, mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chosen", [((0, 2), (0, 2)), ((0, 2), None), ((1,), (0, 2))])
def test_members_may_have_a_prefix_at_some_layers_only(
    backbone: CausalBackbone, task: Task, chosen: tuple[tuple[int, ...] | None, ...]
) -> None:
    first, second = (
        dataclasses.replace(random_prefix(backbone, 4, seed), layers=layers)
        for seed, layers in enumerate(chosen)
    )
    model = PrefixModel(backbone, task, first)
    mean = alone(model, (first, second)).softmax(-1).mean(0).log()
    found = Ensemble([second]).logits(model, TEXTS)
    torch.testing.assert_close(found, mean, atol=1e-4, rtol=1e-3)


def test_what_cannot_be_asked_together_is_refused(model: PrefixModel) -> None:
    prefix, hidden = model.prefix, model.backbone.hidden_size
    for change, message in (
        ({"kernel": torch.ones(2, hidden)}, "convolves"),
        ({"head": torch.ones(2, hidden + 1)}, "label words"),
    ):
        with pytest.raises(ConfigError, match=message):
            Ensemble([dataclasses.replace(prefix, **change)]).logits(model, TEXTS)


def test_a_vote_counts_answers(model: PrefixModel, members: tuple[Prefix, ...]) -> None:
    expected = alone(model, (model.prefix, *members)).argmax(-1)
    found = Ensemble(members, combine="vote").logits(model, TEXTS)
    most = torch.tensor([torch.bincount(votes, minlength=2).argmax() for votes in expected.T])
    assert torch.equal(found.argmax(-1), most)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(len(TEXTS)))


def test_one_prefix_twice_is_that_prefix(model: PrefixModel) -> None:
    found = Ensemble([model.prefix]).logits(model, TEXTS)
    plain = NoDefense().logits(model, TEXTS).log_softmax(-1)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-4)


def test_an_answer_is_the_same_in_any_company(
    model: PrefixModel, members: tuple[Prefix, ...]
) -> None:
    texts = [(f"{text[0]} {number} times",) for number in range(6) for text in TEXTS]
    defense = Ensemble(members)
    together = defense.logits(model, texts, batch_size=32)
    each = torch.cat([defense.logits(model, [text], batch_size=1) for text in texts])
    assert together.std() > 0.05
    torch.testing.assert_close(together, each, atol=2e-4, rtol=1e-3)


def test_every_member_is_a_pass(model: PrefixModel, members: tuple[Prefix, ...]) -> None:
    defense = Ensemble(members)
    defense.logits(model, TEXTS)
    assert defense.cost.forward == pytest.approx(3 * len(TEXTS))


@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_gradients_are_the_slope_of_the_loss(
    model: PrefixModel, members: tuple[Prefix, ...], combine: str
) -> None:
    longer = (*members, random_prefix(model.backbone, 6, 9))
    defense = Ensemble(longer, combine=combine)
    # a member that is undecided between two classes gives its vote to the other at the least step
    scores = alone(model, (model.prefix, *longer))
    decided = torch.stack([margins(each) > 0.02 for each in scores]).all(0).tolist()
    assert sum(decided) >= 3
    for text, label, sure in zip(TEXTS, (1, 0, 1, 0), decided, strict=True):
        if not sure:
            continue
        [found] = defense.gradients(model, [text], [label])
        gradient = torch.from_numpy(found.gradient)
        inputs = model.pad(model.prompter.encode([text]))
        direction = gradient / gradient.norm()
        losses = []
        for step in (2e-3, -2e-3):
            moved = dataclasses.replace(inputs, embedded=inputs.embedded + step * direction)
            scores = defense.run(model, moved).double()
            losses.append(cross_entropy(scores, torch.tensor([label])).item())
        assert gradient.norm() > 0.05
        slope = (losses[0] - losses[1]) / 4e-3
        assert slope == pytest.approx(float(gradient.norm()), rel=2e-2)
    assert defense.cost.backward > 0


def test_masked_copies_may_be_asked_of_an_ensemble(
    model: PrefixModel, members: tuple[Prefix, ...]
) -> None:
    built = build_defense("masked-vote(copies=3, mask=0.7)+ensemble", Fitted(members=members))
    assert isinstance(built, MaskedVote)
    expected = MaskedVote(Ensemble(members), copies=3, mask=0.7).logits(model, TEXTS)
    assert torch.equal(built.logits(model, TEXTS), expected)
    assert build_defense(built.spec, Fitted(members=members)).spec == built.spec


def test_a_spec_names_its_members(members: tuple[Prefix, ...]) -> None:
    spec = Ensemble(members).spec
    assert members[0].fingerprint in spec
    with pytest.raises(ArtifactError, match="the ensemble was made anew"):
        build_defense(spec, Fitted(members=members[:1]))
    with pytest.raises(ArtifactError, match="robust-prefix ensemble"):
        build_defense("ensemble")


def test_a_member_of_another_model_is_refused(
    model: PrefixModel, members: tuple[Prefix, ...]
) -> None:
    other = dataclasses.replace(members[0], base_fingerprint="0" * 16)
    with pytest.raises(ArtifactError, match="0000"):
        Ensemble([other]).logits(model, TEXTS)


def run_of(task: Task, prefix: Prefix, defense: str = "none") -> Run:
    clusters = SynonymClusters({"great": "good"}) if "synonyms" in defense else None
    return Run(task, prefix, defense=defense, synonyms=clusters, measurements={"seed": 0})


def test_runs_are_put_together_saved_and_loaded(
    backbone: CausalBackbone,
    task: Task,
    prefix: Prefix,
    members: tuple[Prefix, ...],
    tmp_path: Path,
) -> None:
    runs = [run_of(task, each, "synonyms") for each in (prefix, *members)]
    made = ensemble_runs(runs[:2], "vote")
    assert made.members == members[:1]
    assert made.defense.startswith("synonyms+ensemble(combine=vote, members=")
    assert [each["prefix"] for each in made.measurements["members"]] == [
        *(prefix.fingerprint, members[0].fingerprint)
    ]
    all_of_them = ensemble_runs([made, runs[2]])
    assert [member.fingerprint for member in all_of_them.members] == [
        member.fingerprint for member in members
    ]
    all_of_them.save(tmp_path)
    loaded = PrefixClassifier.from_pretrained(tmp_path, backbone=backbone)
    model = PrefixModel(backbone, task, prefix)
    read: list[Fields] = [("a good film",)]
    expected = Ensemble(members).logits(model, read)
    torch.testing.assert_close(loaded.logits(["a great film"]), expected)
    again = loaded.with_defense(loaded.build_defense("ensemble"))
    again.save_pretrained(tmp_path / "again")
    assert Run.load(tmp_path / "again").members[1].fingerprint == members[1].fingerprint
    assert PrefixClassifier.from_pretrained(tmp_path, "none", backbone=backbone).fitted.members


def test_only_like_runs_are_put_together(
    tokenizer: PreTrainedTokenizerFast, task: Task, prefix: Prefix, members: tuple[Prefix, ...]
) -> None:
    first = run_of(task, prefix, "normalize")
    other_task = dataclasses.replace(task, template="{text} good or bad ?")
    other_model = dataclasses.replace(members[0], base_fingerprint="0" * 16)
    for others, message in (
        ([], "two or more different prefixes"),
        ([first], "two or more different prefixes"),
        ([run_of(task, other_model, "normalize")], "base model"),
        ([run_of(other_task, members[0], "normalize")], "task"),
        ([run_of(task, members[0])], "defences before the prefix"),
    ):
        with pytest.raises(ConfigError, match=message):
            ensemble_runs([first, *others])
    kept = ensemble_runs([run_of(task, prefix), run_of(task, members[0], "robust-prefix(steps=2)")])
    assert kept.defense.startswith("ensemble(")
