"""Detectors on the real model: fitted on reviews, they notice texts that are none."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import DetectorConfig
from robust_prefix.data import load_file, rows_as_fields
from robust_prefix.detection import see
from robust_prefix.detection.fitting import fit_detectors
from robust_prefix.evaluation.roc import auroc
from robust_prefix.runs import ZOO
from robust_prefix.tasks import load_task

from .conftest import REAL

pytestmark = REAL


def test_misspelt_reviews_are_told_from_clean_ones(tmp_path: Path) -> None:
    classifier = PrefixClassifier.from_pretrained("zoo:sst2-smollm2-135m", "none", dtype="float32")
    rows = load_file(classifier.task, ZOO / "demo_reviews.csv")
    texts, labels = rows_as_fields(classifier.task, rows), list(rows["label"])
    (tmp_path / "sst2").mkdir()
    for split, start in (("train", 0), ("dev", 1)):
        with (tmp_path / "sst2" / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for (text,), label in list(zip(texts, labels, strict=True))[start::2]:
                writer.writerow([text, label])
    model = classifier.model
    detectors = fit_detectors(
        model.backbone,
        model.prefix,
        load_task("sst2", tmp_path),
        subspaces=classifier.subspaces,
        config=DetectorConfig(components=8),
    )
    rng = random.Random(0)
    clean = texts[1::2]
    altered = [
        (" ".join("".join(rng.sample(word, len(word))) for word in text.split()),)
        for (text,) in clean
    ]
    for name, least in (("mahalanobis", 0.7), ("density", 0.7), ("margin", 0.6)):
        score = detectors.get(name).score
        found = [score(see(model, each, score.layers)).numpy() for each in (clean, altered)]
        area = auroc(*found).value
        assert area is not None
        assert area > least, name
