"""Several tasks from one loaded model, mixed in one batch: each answer is the classifier's own."""

from __future__ import annotations

import dataclasses
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from robust_prefix.backbones import Adapters, Backbone, CausalBackbone, load_backbone
from robust_prefix.classifier import PrefixClassifier, Text
from robust_prefix.data import load_split, rows_as_fields
from robust_prefix.defenses import Fitted, Normalize, RobustPrefix
from robust_prefix.detection import Detectors
from robust_prefix.errors import ArtifactError, ConfigError, InputError
from robust_prefix.prefixes import Prefix, PrefixModel, build_method
from robust_prefix.serving import PrefixServer, Request
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import TASKS, Task

from .conftest import tiny_backbone
from .families import tiny_encoder, tiny_seq2seq

REVIEWS: list[Text] = [
    "the film is good",
    "a dull and weak plot , poor cast",
    "warm",
    "the end is great and the start is flat and cold",
]
PAIRS: list[Text] = [
    ["the film is good", "the film is bad"],
    {"premise": "a cold start and a poor end that is dull", "hypothesis": "warm"},
    ["the plot", "the score is weak and flat and bad and the cast is not"],
]
REQUESTS: list[Request] = [
    ("pairs", PAIRS[0]),
    ("reviews", REVIEWS[0]),
    ("reviews", REVIEWS[1]),
    ("pairs", PAIRS[1]),
    ("reviews", REVIEWS[2]),
    ("reviews", REVIEWS[3]),
    ("pairs", PAIRS[2]),
]


def random_prefix(backbone: Backbone, length: int, seed: int) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(backbone.prefix_shape(length), generator=generator)
    return Prefix(tensor, backbone.name, backbone.fingerprint)


def tasks_for(backbone: Backbone, task: Task) -> tuple[Task, Task]:
    """Two tasks of other columns, templates and numbers of classes."""
    blank = " {mask} ." if backbone.mask_token is not None else ""
    reviews = dataclasses.replace(task, max_tokens=64)
    pairs = dataclasses.replace(TASKS["snli"], max_tokens=64)
    if blank:
        reviews = dataclasses.replace(reviews, template="{text} it was" + blank)
        pairs = dataclasses.replace(pairs, template="{premise} ?" + blank + " {hypothesis} .")
    return reviews, pairs


def server_of(backbone: Backbone, task: Task, lengths: tuple[int, int]) -> PrefixServer:
    reviews, pairs = tasks_for(backbone, task)
    return PrefixServer(
        backbone,
        {
            "reviews": PrefixClassifier(backbone, reviews, random_prefix(backbone, lengths[0], 1)),
            "pairs": PrefixClassifier(backbone, pairs, random_prefix(backbone, lengths[1], 2)),
        },
    )


def check_as_alone(server: PrefixServer, requests: list[Request] = REQUESTS) -> None:
    """Every answer is what the classifier says where it is asked about that text alone."""
    found = server.logits(requests)
    predicted = server.predict(requests)
    assert len(found) == len(predicted) == len(requests)
    for (name, text), scores, label in zip(requests, found, predicted, strict=True):
        alone = server.classifiers[name]
        [expected] = alone.logits([text])
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
        assert label == alone.predict([text])[0]


FAMILIES = ["llama", "gpt2", "gpt_neox", "bert", "t5", "bart"]


def any_family(kind: str, tokenizer: PreTrainedTokenizerFast) -> Backbone:
    if kind in ("t5", "bart"):
        return tiny_seq2seq(kind)
    return tiny_encoder(kind) if kind == "bert" else tiny_backbone(kind, tokenizer)


@pytest.mark.parametrize("lengths", [(4, 4), (2, 7), (5, 1)])
@pytest.mark.parametrize("kind", FAMILIES)
def test_mixed_answers_are_those_of_each_alone(
    tokenizer: PreTrainedTokenizerFast, task: Task, kind: str, lengths: tuple[int, int]
) -> None:
    server = server_of(any_family(kind, tokenizer), task, lengths)
    check_as_alone(server)
    first, second = server.logits([("reviews", REVIEWS[0]), ("reviews", REVIEWS[1])])
    assert (first - second).abs().max() > 1e-2, "the texts do not matter to this model"


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_methods_that_change_the_model_are_answered_apart(
    tokenizer: PreTrainedTokenizerFast, task: Task, kind: str
) -> None:
    """Two sets of adapters and a prefix, each with its own model, and the frozen one untouched."""
    backbone = any_family(kind, tokenizer)
    server = server_of(backbone, task, (4, 4))
    before = server.logits(REQUESTS)
    reviews, _ = tasks_for(backbone, task)
    adapted: list[Request] = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        learned = build_method("adapters(width=4)").trainable(backbone, reviews)(backbone)
        assert learned.adapters is not None
        down, up = map(torch.randn_like, (learned.adapters.down, learned.adapters.up))
        adapters = dataclasses.replace(learned.adapters, down=down, up=up)
        changed = Prefix.of(dataclasses.replace(learned, adapters=adapters), backbone, {})
        server.add(PrefixClassifier(backbone, reviews, changed), f"adapted {seed}")
        adapted += [(f"adapted {seed}", text) for text in REVIEWS]
    check_as_alone(server, [*adapted, *REQUESTS])
    one, two = (torch.stack(server.logits(adapted[i : i + 4])) for i in (0, 4))
    assert (one - two).abs().max() > 1e-2
    for scores, expected in zip(server.logits(REQUESTS), before, strict=True):
        assert torch.equal(scores, expected)


def test_one_batch_has_all_tasks_in_it(
    backbone: CausalBackbone, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = server_of(backbone, task, (2, 7))
    sizes: list[int] = []
    run = backbone.run_to_answer

    def counted(hidden: torch.Tensor, *rest: object) -> torch.Tensor:
        sizes.append(len(hidden))
        return run(hidden, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone, "run_to_answer", counted)
    server.logits(REQUESTS)
    assert sizes == [len(REQUESTS)]


def test_equal_requests_are_run_once(backbone: CausalBackbone, task: Task) -> None:
    server = server_of(backbone, task, (2, 7))
    backbone.passes.reset()
    found = server.logits([*REQUESTS, *REQUESTS, *REQUESTS])
    assert backbone.passes.forward == pytest.approx(len(REQUESTS))
    for first, again in zip(found, found[len(REQUESTS) :], strict=False):
        assert torch.equal(first, again)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_small_batches_answer_the_same(
    backbone: CausalBackbone, task: Task, batch_size: int
) -> None:
    server = server_of(backbone, task, (2, 7))
    longer: list[Request] = [("reviews", "the film is good " * 14), *REQUESTS]
    for small, large in zip(server.logits(longer, batch_size), server.logits(longer), strict=True):
        torch.testing.assert_close(small, large, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layers", [((0, 2), (0, 2)), ((0, 2), None), ((1,), (0, 2))], ids=str)
def test_prefixes_at_some_layers_only(
    tokenizer: PreTrainedTokenizerFast, task: Task, layers: tuple[tuple[int, ...] | None, ...]
) -> None:
    for kind in ("llama", "gpt2"):
        backbone = tiny_backbone(kind, tokenizer)
        server = PrefixServer(backbone)
        for name, asked, length, chosen in zip(
            ("reviews", "pairs"), tasks_for(backbone, task), (4, 2), layers, strict=True
        ):
            prefix = dataclasses.replace(random_prefix(backbone, length, length), layers=chosen)
            server.add(PrefixClassifier(backbone, asked, prefix), name)
        check_as_alone(server)


def test_heads_kernels_adapters_and_virtual_tokens_keep_to_their_task(
    backbone: CausalBackbone, task: Task
) -> None:
    """Whatever a method learned beside keys and values is used for its own texts alone."""
    hidden = backbone.hidden_size
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    reviews, pairs = tasks_for(backbone, task)
    server = server_of(backbone, task, (2, 7))
    convolved = dataclasses.replace(random_prefix(backbone, 0, 0), kernel=random(3, hidden) / 4)
    headed = dataclasses.replace(random_prefix(backbone, 3, 4), head=random(3, hidden + 1))
    inside = dataclasses.replace(reviews, template="{text} is it {prompt:2} good ?")
    soft = dataclasses.replace(random_prefix(backbone, 1, 5), soft_tokens=random(3, hidden))
    server.add(PrefixClassifier(backbone, reviews, convolved), "convolved")
    server.add(PrefixClassifier(backbone, pairs, headed), "headed")
    server.add(PrefixClassifier(backbone, inside, soft), "inside")
    down, up = random(2, 4, hidden + 1), random(2, hidden, 5)
    adapters = Adapters(down, up, ((0, "attention"), (1, "feed-forward")))
    adapted = dataclasses.replace(random_prefix(backbone, 2, 6), adapters=adapters)
    server.add(PrefixClassifier(backbone, reviews, adapted), "adapted")
    more: list[Request] = [
        *(("adapted", text) for text in REVIEWS),
        *(("convolved", text) for text in REVIEWS),
        *(("headed", text) for text in PAIRS),
        *(("inside", text) for text in REVIEWS),
    ]
    check_as_alone(server, [*more[::2], *REQUESTS, *more[1::2]])


def test_a_long_prefix_takes_no_room_from_the_texts_of_others(
    tokenizer: PreTrainedTokenizerFast, task: Task
) -> None:
    backbone = tiny_backbone("gpt2", tokenizer)  # 256 learned positions
    server = server_of(backbone, task, (4, 180))
    long = dataclasses.replace(task, max_tokens=200)
    server.add(PrefixClassifier(backbone, long, random_prefix(backbone, 4, 9)), "long")
    check_as_alone(server, [*REQUESTS, ("long", "the film is good " * 60)])
    assert server.classify([("long", "the film is good " * 60)])[0].truncated


def test_a_defended_task_is_answered_by_its_defence(
    backbone: CausalBackbone, task: Task, prefix: Prefix, spaces: Subspaces
) -> None:
    server = server_of(backbone, task, (2, 7))
    tuned = RobustPrefix(spaces, steps=3, learning_rate=0.3)
    plain = PrefixClassifier(backbone, dataclasses.replace(task, max_tokens=64), prefix)
    server.add(plain, "undefended")
    server.add(plain.with_defense(tuned), "tuned")
    server.add(plain.with_defense(Normalize()), "normalized")
    texts = [*REVIEWS, "the f\u0456lm is g\u043e\u043ed"]
    asked = [(name, text) for text in texts for name in ("undefended", "tuned", "normalized")]
    check_as_alone(server, [*asked, *REQUESTS])
    found = server.logits(asked)
    undefended, defended, normalized = (torch.stack(found[start::3]) for start in range(3))
    assert (undefended - defended).abs().max() > 1e-2
    assert (undefended - normalized).abs().max() > 1e-2
    assert tuned.cost.backward > 0


def test_a_refusal_is_handed_on(model: PrefixModel, detectors: Detectors, task: Task) -> None:
    short = dataclasses.replace(task, max_tokens=64)
    plain = PrefixClassifier(
        model.backbone, short, model.prefix, fitted=Fitted(detectors=detectors)
    )
    refusing = plain.with_defense(plain.build_defense("detect(fpr=0.4)"))
    server = PrefixServer(model.backbone, {"plain": plain, "refusing": refusing})
    texts = [text for (text,) in rows_as_fields(task, load_split(task, "dev"))]
    found = server.predict([(name, text) for text in texts for name in ("plain", "refusing")])
    assert None not in found[::2]
    assert found[1::2] == refusing.predict(texts)
    assert 0 < found[1::2].count(None) < len(texts)


def test_tasks_come_and_go(backbone: CausalBackbone, task: Task) -> None:
    server = server_of(backbone, task, (2, 7))
    reviews = server.classifiers["reviews"]
    before = server.logits(REQUESTS)
    server.remove("reviews")
    assert set(server.classifiers) == {"pairs"}
    with pytest.raises(ConfigError, match=r"known task \(pairs\), got 'reviews'"):
        server.predict(REQUESTS)
    with pytest.raises(ConfigError, match=r"known task \(pairs\), got 'reviews'"):
        server.remove("reviews")
    server.add(reviews, "reviews")
    for again, first in zip(server.logits(REQUESTS), before, strict=True):
        torch.testing.assert_close(again, first, atol=1e-4, rtol=1e-4)
    server.add(reviews)
    assert set(server.classifiers) == {"pairs", "reviews", reviews.task.name}
    with pytest.raises(ConfigError, match="expected a new name for a task to serve, got 'pairs'"):
        server.add(reviews, "pairs")


def test_a_call_keeps_the_tasks_it_began_with(
    backbone: CausalBackbone, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may remove a task while a batch of it is under way."""
    server = server_of(backbone, task, (2, 7))
    expected = server.predict(REQUESTS)
    run = backbone.run_to_answer

    def interrupted(*arguments: object) -> torch.Tensor:
        if "reviews" in server.classifiers:
            server.remove("reviews")
        return run(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone, "run_to_answer", interrupted)
    assert server.predict(REQUESTS) == expected
    assert "reviews" not in server.classifiers


def test_no_requests_no_answers(backbone: CausalBackbone, task: Task) -> None:
    assert server_of(backbone, task, (2, 7)).predict([]) == []


def test_a_bad_text_is_named_by_its_place(backbone: CausalBackbone, task: Task) -> None:
    server = server_of(backbone, task, (2, 7))
    with pytest.raises(InputError, match=r"2 columns .* in text 7, got 1"):
        server.predict([*REQUESTS, ("pairs", "only one")])


def test_another_loaded_model_is_refused(
    tokenizer: PreTrainedTokenizerFast, backbone: CausalBackbone, task: Task
) -> None:
    server = server_of(backbone, task, (2, 7))
    other = server_of(tiny_backbone("llama", tokenizer, seed=1), task, (2, 7))
    with pytest.raises(ConfigError, match="got 'more' on another; load it with backbone="):
        server.add(other.classifiers["pairs"], "more")


def test_runs_are_served_from_their_folders(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, model_dir: Path, task: Task
) -> None:
    backbone = load_backbone(str(model_dir), dtype="float32")
    made = server_of(backbone, task, (2, 7))
    for name, classifier in made.classifiers.items():
        classifier.save_pretrained(tmp_path / name)
    folders = [tmp_path / name for name in ("reviews", "pairs")]
    server = PrefixServer.from_pretrained(folders, dtype="float32")
    renamed = {"reviews": task.name, "pairs": "snli"}
    requests = [(renamed[name], text) for name, text in REQUESTS]
    for found, expected in zip(server.logits(requests), made.logits(REQUESTS), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match=r"got those of .*, snli, snli; serve one of each"):
        PrefixServer.from_pretrained([*folders, folders[1]], dtype="no model is loaded")
    with pytest.raises(InputError, match="at least one run"):
        PrefixServer.from_pretrained([])
    elsewhere = tiny_backbone("llama", tokenizer, seed=1)
    [_, foreign] = server_of(elsewhere, task, (2, 7)).classifiers.values()
    foreign.save_pretrained(tmp_path / "foreign")
    with pytest.raises(ArtifactError, match="expected a prefix for"):
        server.load(tmp_path / "foreign", name="foreign")
    assert set(server.classifiers) == {task.name, "snli"}


LEAD = "the film is good and the plot is warm and the cast is cold and the end is "
OTHER = "a cold start and a poor end that is dull and flat and the score is "


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(REVIEWS, REVIEWS[::-1], id="packed texts"),
        pytest.param(
            [LEAD + word for word in ("good", "bad", "dull", "weak plot")],
            [OTHER + word for word in ("warm", "cold and weak", "fine", "flat")],
            id="common beginnings",
        ),
    ],
)
def test_a_pass_is_over_before_another_threads_begins(
    backbone: CausalBackbone, task: Task, first: list[Text], second: list[Text]
) -> None:
    """What it leaves on the model on its way, the attention of packed texts or the keys and values
    of what texts have in common, is not for another."""
    reviews = server_of(backbone, task, (3, 5)).classifiers["reviews"]
    alone = [reviews.logits(texts) for texts in (first, second)]
    inside, done = threading.Event(), threading.Event()
    found: list[torch.Tensor] = []
    other = threading.Thread(target=lambda: found.append(reviews.logits(second)))

    def meet(*_: Any) -> None:
        if threading.current_thread() is other:
            inside.set()
            done.wait(10)
        elif not other.ident:
            other.start()
            inside.wait(0.3)  # in vain, as it should be

    hook = backbone.layers[1].register_forward_pre_hook(meet)
    try:
        mine = reviews.logits(first)
    finally:
        done.set()
        other.join()
        hook.remove()
    torch.testing.assert_close(mine, alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0], alone[1], atol=1e-5, rtol=0)


def test_tasks_may_be_added_from_several_threads(backbone: CausalBackbone, task: Task) -> None:
    server = PrefixServer(backbone)
    classifier = PrefixClassifier(
        backbone, tasks_for(backbone, task)[0], random_prefix(backbone, 3, 1)
    )
    names = [f"task {number}" for number in range(200)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: server.add(classifier, name), names))
            assert set(server.classifiers) == set(names)
            list(pool.map(server.remove, names))
    finally:
        sys.setswitchinterval(before)
    assert not server.classifiers
