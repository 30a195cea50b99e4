"""The real model writes reviews class by class, and the zoo's classifier judges them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import ExamplesConfig, PrefixTuningConfig, SamplingConfig, TrainingConfig
from robust_prefix.data import load_file, rows_as_fields
from robust_prefix.generation import (
    PrefixGenerator,
    class_task,
    generate_examples,
    train_generation,
)
from robust_prefix.runs import ZOO
from robust_prefix.tasks import load_task

from .conftest import REAL

pytestmark = REAL


def test_reviews_of_both_classes_are_written(tmp_path: Path) -> None:
    judge = PrefixClassifier.from_pretrained("zoo:sst2-smollm2-135m", dtype="float32")
    reviews = (ZOO / "demo_reviews.csv").read_text()
    for split in ("train", "dev"):
        (tmp_path / "sst2").mkdir(exist_ok=True)
        (tmp_path / "sst2" / f"{split}.csv").write_text(reviews)
    here = {split: f"sst2/{split}.csv" for split in ("train", "dev")}
    task = dataclasses.replace(load_task("sst2", tmp_path), splits=here)
    backbone = judge.model.backbone
    written = class_task(task, "A sentence of a {source} movie review:")
    prefix = train_generation(
        backbone,
        written,
        prefix=PrefixTuningConfig(length=5),
        training=TrainingConfig(epochs=1, batch_size=8),
    )
    generator = PrefixGenerator(backbone, written, prefix)
    sampling = SamplingConfig(top_k=50, max_new_tokens=40)
    config = ExamplesConfig(sampling=sampling, min_probability=0.8, batch_size=16)
    found = generate_examples(generator, task, [judge], 6, tmp_path / "more.csv", config=config)
    rows = load_file(task, tmp_path / "more.csv")
    assert found["kept"] == len(rows) == 6
    texts = rows_as_fields(task, rows)
    # half of what is written would be doubted if the class in the prompt said nothing
    assert found["doubted"] < 0.5 * (found["doubted"] + found["kept"])
    probabilities = judge.predict_proba(texts)
    for row, label in zip(probabilities, rows["label"], strict=True):
        assert row[label] >= 0.8
