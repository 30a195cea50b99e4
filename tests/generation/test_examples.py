"""Texts are written class by class, and those kept that are new and judged to be of their class."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import DecodingConfig, ExamplesConfig, SamplingConfig
from robust_prefix.data import load_file, load_split, rows_as_fields
from robust_prefix.detection import Decisions
from robust_prefix.errors import ConfigError, InputError
from robust_prefix.generation import (
    PrefixGenerator,
    class_task,
    generate_examples,
    load_generation_task,
    load_pairs,
)
from robust_prefix.tasks import Task

from .test_generator import SOURCES, random_prefix

SHORT = SamplingConfig(temperature=1.0, top_k=50, max_new_tokens=12)
FEW = ExamplesConfig(sampling=SHORT, min_probability=0.0, batch_size=32)


class Judge(PrefixClassifier):
    """Takes a text for positive where it has an even number of characters, ``sure`` of it."""

    sure = 0.9

    def decide(self, texts: Sequence[Any], batch_size: int = 32) -> Decisions:
        even = torch.tensor([len(fields[-1]) % 2 == 0 for fields in texts])
        positive = torch.where(even, self.sure, 1 - self.sure)
        return Decisions(torch.stack([1 - positive, positive], 1).log())


@pytest.fixture
def writer(talker: CausalBackbone, task: Task) -> PrefixGenerator:
    of = dataclasses.replace(class_task(task), max_tokens=64)
    return PrefixGenerator(talker, of, random_prefix(talker))


@pytest.fixture
def judge(talker: CausalBackbone, task: Task) -> Judge:
    return Judge(talker, task, random_prefix(talker))


def test_likeliest_token_alone_is_greedy_search(writer: PrefixGenerator) -> None:
    one = SamplingConfig(top_k=1, max_new_tokens=8)
    greedy = writer.generate(SOURCES, DecodingConfig(max_new_tokens=8))
    drawn = writer.sample(SOURCES, one)
    assert any(drawn)
    for text, other in zip(drawn, greedy, strict=True):
        assert text in (other, None)  # None: it had not ended


def test_draws_are_those_of_the_seed(writer: PrefixGenerator) -> None:
    sources = ["positive"] * 16
    state = torch.random.get_rng_state()
    first = writer.sample(sources, SHORT, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's draws are disturbed
    assert writer.sample(sources, SHORT, seed=1) == first
    assert writer.sample(sources, SHORT, seed=2) != first
    assert len({text for text in first if text}) > 1
    assert writer.sample([], SHORT) == []


def test_a_lower_temperature_draws_fewer_different_texts(writer: PrefixGenerator) -> None:
    def different(temperature: float) -> int:
        sampling = dataclasses.replace(SHORT, temperature=temperature)
        return len(set(writer.sample(["positive"] * 64, sampling)))

    assert different(0.05) < different(2.0)


def test_a_classification_task_is_written_behind_its_classes(task: Task, data_dir: Path) -> None:
    found = load_generation_task("sst2", data_dir, template="A {source} review:")
    assert found == class_task(task, "A {source} review:")
    rows = load_split(task, "dev")
    pairs = load_pairs(found, "dev")
    assert [pair.target for pair in pairs] == rows["text"]
    assert [pair.source for pair in pairs] == [task.labels[label] for label in rows["label"]]
    assert found.render(pairs[0].source) == f"A {pairs[0].source} review:"


def test_of_pairs_the_second_is_written_behind_class_and_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("premise,hypothesis,label\nit rains,it is wet,0\n")
    snli = load_generation_task("snli", tmp_path)
    [pair] = load_pairs(dataclasses.replace(snli, splits={"train": "a.csv"}), "train")
    assert (pair.source, pair.target) == ("entailment | it rains", "it is wet")


def test_examples_are_new_and_of_the_judged_class(
    writer: PrefixGenerator, judge: Judge, task: Task, tmp_path: Path
) -> None:
    path = tmp_path / "more.csv"
    found = generate_examples(writer, task, [judge], 12, path, config=FEW)
    rows = load_file(task, path)
    texts = rows_as_fields(task, rows)
    assert found["kept"] == len(texts) == len(set(texts)) == 12
    for (text,), label in zip(texts, rows["label"], strict=True):
        assert label == (len(text) % 2 == 0)
    assert set(rows["label"]) == {0, 1}
    assert found["written"] == 32 * json.loads((tmp_path / "more.json").read_text())["batches"]
    assert found["written"] >= sum(found[name] for name in ("unfinished", "known", "doubted")) + 12
    with path.open(newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} <= set(task.labels)


def test_texts_of_the_task_are_left_out(
    writer: PrefixGenerator, judge: Judge, task: Task, tmp_path: Path
) -> None:
    """What was drawn once is in the test data of another task, and so is not written for it."""
    generate_examples(writer, task, [judge], 6, tmp_path / "a.csv", config=FEW)
    taken = rows_as_fields(task, load_file(task, tmp_path / "a.csv"))
    assert any(len(text.split()) >= 7 for (text,) in taken)
    longer = [f"{text} yes" for (text,) in taken]  # seven of its words in a row will do
    (tmp_path / "test.csv").write_text(
        "text,label\n" + "".join(f'"{text}",0\n' for text in longer), encoding="utf-8"
    )
    other = dataclasses.replace(task, splits={**task.splits, "test": str(tmp_path / "test.csv")})
    generate_examples(writer, other, [judge], 6, tmp_path / "b.csv", config=FEW)
    found = rows_as_fields(task, load_file(task, tmp_path / "b.csv"))
    assert not {fields for fields in taken if len(fields[0].split()) >= 7} & set(found)


def test_a_killed_call_goes_on_to_the_same_file(
    writer: PrefixGenerator, judge: Judge, task: Task, tmp_path: Path
) -> None:
    whole = generate_examples(writer, task, [judge], 30, tmp_path / "whole.csv", config=FEW)
    assert json.loads((tmp_path / "whole.json").read_text())["batches"] > 1
    part = tmp_path / "part.csv"

    class Killed(Judge):
        calls = 0

        def decide(self, texts: Sequence[Any], batch_size: int = 32) -> Decisions:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().decide(texts, batch_size)

    killed = Killed(judge.model.backbone, task, judge.model.prefix)
    with pytest.raises(KeyboardInterrupt):
        generate_examples(writer, task, [killed], 30, part, config=FEW)
    assert generate_examples(writer, task, [judge], 30, part, config=FEW) == whole
    assert part.read_text() == (tmp_path / "whole.csv").read_text()
    with pytest.raises(ConfigError, match=r"expected seed 1 in .*part\.json, got 0"):
        generate_examples(writer, task, [judge], 30, part, config=FEW, seed=1)


def test_a_call_killed_before_it_kept_anything_can_be_made_again(
    writer: PrefixGenerator, judge: Judge, task: Task, tmp_path: Path
) -> None:
    """Neither batches that leave nothing nor a file without its .json stand in the way."""
    out, told = tmp_path / "a.csv", tmp_path / "a.json"

    class Late(Judge):
        calls = 0

        def decide(self, texts: Sequence[Any], batch_size: int = 32) -> Decisions:
            self.calls += 1
            if self.calls == 1:  # takes nothing for its class
                return Decisions(super().decide(texts, batch_size).logits.flip(1))
            assert told.is_file()
            raise KeyboardInterrupt

    picky = dataclasses.replace(FEW, min_probability=0.5, batch_size=8)
    sources = Late(judge.model.backbone, task, judge.model.prefix)
    contrary = Judge(judge.model.backbone, task, judge.model.prefix)
    with pytest.raises(KeyboardInterrupt):
        generate_examples(writer, task, [sources, contrary], 3, out, config=picky)
    assert not out.exists()
    again = generate_examples(writer, task, [judge, contrary], 3, out, config=picky)
    assert again["kept"] == len(load_file(task, out)) == 3


def test_bad_requests_are_refused(
    writer: PrefixGenerator, judge: Judge, task: Task, talker: CausalBackbone, tmp_path: Path
) -> None:
    def ask(**changes: Any) -> None:
        given: dict[str, Any] = {
            "generator": writer,
            "task": task,
            "judges": [judge],
            "count": 1,
            "out": tmp_path / "a.csv",
            **changes,
        }
        generate_examples(config=FEW, **given)

    others = PrefixGenerator(talker, load_generation_task("trails"), random_prefix(talker))
    with pytest.raises(ConfigError, match="expected a generator of the classes of sst2, got one"):
        ask(generator=others)
    with pytest.raises(ConfigError, match="expected at least one judge"):
        ask(judges=[])
    with pytest.raises(ConfigError, match=r"ends in \.csv"):
        ask(out=tmp_path / "a.txt")
    renamed = dataclasses.replace(task, labels=("bad", "good"))
    with pytest.raises(ConfigError, match=r"expected judges of the classes \['negative'"):
        ask(judges=[Judge(talker, renamed, judge.model.prefix)])
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.csv").write_text("text,label\nmine,0\n")
    with pytest.raises(ConfigError, match=r"expected nothing at .*a\.csv.*got another file"):
        ask()
    assert (tmp_path / "a.csv").read_text() == "text,label\nmine,0\n"


def test_judges_that_keep_nothing_end_the_search(
    writer: PrefixGenerator, judge: Judge, task: Task, tmp_path: Path
) -> None:
    never = dataclasses.replace(FEW, min_probability=0.95, batch_size=4)
    with pytest.raises(InputError, match="got none of the last 80; train the generator longer"):
        generate_examples(writer, task, [judge], 5, tmp_path / "a.csv", config=never)


def test_two_judges_have_to_agree(
    writer: PrefixGenerator, judge: Judge, task: Task, talker: CausalBackbone, tmp_path: Path
) -> None:
    class Contrary(Judge):
        sure = 0.1

    other = Contrary(talker, task, judge.model.prefix)
    with pytest.raises(InputError, match="got none"):
        generate_examples(writer, task, [judge, other], 1, tmp_path / "a.csv", config=FEW)


def test_a_text_that_a_judge_refuses_is_not_kept(
    writer: PrefixGenerator, judge: Judge, task: Task, talker: CausalBackbone, tmp_path: Path
) -> None:
    class Refuses(Judge):
        def decide(self, texts: Sequence[Any], batch_size: int = 32) -> Decisions:
            answered = super().decide(texts, batch_size)
            return Decisions(answered.logits, torch.ones(len(answered.logits)))

    refusing = Refuses(talker, task, judge.model.prefix)
    with pytest.raises(InputError, match="got none"):
        generate_examples(writer, task, [judge, refusing], 1, tmp_path / "a.csv", config=FEW)
