"""What each part of a composition adds, and the choice among compositions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluation_fakes import EXAMPLES, LABELS, SENTENCES, LexiconClassifier, SwapAttack

from robust_prefix.defenses import Defense, Fitted, build_defense
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.evaluation import Manifest, RecordStore, System, evaluate
from robust_prefix.evaluation.ablation import Remainder, contributions, without_each
from robust_prefix.evaluation.accuracy import Accuracy
from robust_prefix.evaluation.defending import (
    CANDIDATES,
    OnClean,
    candidates,
    choose,
    limits,
    objections,
)
from robust_prefix.evaluation.results import Results
from robust_prefix.evaluation.statistics import wilson
from robust_prefix.subspaces import Subspaces


def test_each_part_is_left_out_with_the_others_as_they_were(spaces: Subspaces) -> None:
    spec = build_defense("normalize+gate(share=0.2)+projection", Fitted(spaces)).spec
    normalize, gate, _ = spec.split("+")
    left = without_each(spec, lambda text: build_defense(text, Fitted(spaces)))
    found = [each.defense and each.defense.spec for each in left]
    assert found == [f"{gate}+projection", f"{normalize}+projection", None]
    assert "behind the gate" in left[2].reason
    [alone] = without_each("projection", lambda text: build_defense(text, Fitted(spaces)))
    assert alone.defense is not None
    assert alone.defense.spec == "none"


FULL, WITHOUT_A, WITHOUT_B = "a+b", "b", "a"
# What each part knows of the swaps' synonyms: `a` those of praise, `b` those of blame as well.
KNOWN = {
    FULL: {"lovely": 2, "clever": 2, "okay": 1, "tepid": 1, "slow": -2, "awkward": -2},
    WITHOUT_A: {"slow": -2, "awkward": -2},
    WITHOUT_B: {"lovely": 2, "clever": 2, "okay": 1, "tepid": 1},
}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    attack = SwapAttack()
    systems = [System("undefended", LexiconClassifier())]
    systems += [System("defense", LexiconClassifier(spec, known)) for spec, known in KNOWN.items()]
    manifest = Manifest(
        *("reviews", ("text",), LABELS, "lexicon", "p", attack.spec),
        seed=0,
        n=len(EXAMPLES),
        test_fingerprint="f",
        defenses=tuple(KNOWN),
    )
    with RecordStore(tmp_path / "run.sqlite", manifest) as store:
        evaluate(systems, attack, EXAMPLES, store, manifest, check=False)
        assert not store.items("probe")
        [found] = Results.read(store)
    return found


def named(spec: str) -> Any:
    return SimpleNamespace(spec=spec)


def test_contributions_are_paired_by_example(results: Results) -> None:
    left = [
        *(Remainder("a", named(WITHOUT_A)), Remainder("b", named(WITHOUT_B))),
        *(Remainder("c", named("none")), Remainder("d", None, "no defence")),
    ]
    a, b, everything, nothing = contributions(results, FULL, left)
    held = {
        spec: {
            e.index
            for e in EXAMPLES
            if all(r.held for r in results.records if r.defense == spec and r.example == e.index)
        }
        for spec in (FULL, WITHOUT_A, WITHOUT_B, "none")
    }
    for each, spec in ((a, WITHOUT_A), (b, WITHOUT_B), (everything, "none")):
        wanted = (len(held[FULL]) - len(held[spec])) / len(SENTENCES)
        assert each.gain.value == pytest.approx(wanted)
        assert each.gain.low <= wanted <= each.gain.high
        assert each.robust.value == pytest.approx(len(held[spec]) / len(SENTENCES))
        assert each.cost == pytest.approx(0)
    assert a.gain.value is not None
    assert a.gain.value > 0
    assert (nothing.without, nothing.gain.value, nothing.reason) == (None, None, "no defence")


PLAIN = OnClean(Accuracy(95, 100), 0, 1.0)


@pytest.mark.parametrize(
    ("found", "objection"),
    [
        pytest.param(OnClean(Accuracy(92, 100), 0, 2.0), "", id="at-both-limits"),
        pytest.param(OnClean(Accuracy(99, 100), 0, 2.1), "over the budget", id="slow"),
        pytest.param(OnClean(Accuracy(91, 100), 4, 1.0), "loses too much", id="wrong-or-silent"),
    ],
)
def test_limits(found: OnClean, objection: str) -> None:
    told = objections({"none": PLAIN, "x": found}, limits("2x", 0.03))
    assert told["none"] == ""
    assert told["x"].startswith(objection)
    assert bool(told["x"]) == bool(objection)


@pytest.mark.parametrize(
    ("budget", "loss"), [("fast", 0.1), ("0.5x", 0.1), ("-2x", 0.1), ("2x", 1.5)]
)
def test_limits_that_are_none(budget: str, loss: float) -> None:
    with pytest.raises(ConfigError, match="expected a"):
        limits(budget, loss)


def test_what_holds_best_is_chosen_and_of_equals_the_cheapest(results: Results) -> None:
    cost = dict.fromkeys(("none", FULL, WITHOUT_A, WITHOUT_B), 1.0)
    rows = {spec: results.summary.row(spec, "worst").robust_accuracy.value for spec in cost}
    clean = {spec: OnClean(Accuracy(9, 10), 0, passes) for spec, passes in cost.items()}
    choice = choose(clean, limits("2x", 0.03), [results])
    assert list(choice.robust[choice.chosen]) == [results.manifest.attack]
    assert rows[choice.chosen] == max(value for value in rows.values() if value is not None)
    assert choice.to_dict()["chosen"] == choice.chosen
    equals = [spec for spec, value in rows.items() if value == rows[choice.chosen]]
    dear = {spec: OnClean(Accuracy(9, 10), 0, 1.0 + (spec == choice.chosen)) for spec in cost}
    assert (choose(dear, limits("2x", 0.03), [results]).chosen != choice.chosen) == (
        len(equals) > 1
    )


def held_under(attack: str, shares: dict[str, int]) -> Any:
    """Results of an attack that so many of ten texts survive, by defence."""
    rows = {spec: SimpleNamespace(robust_accuracy=wilson(n, 10)) for spec, n in shares.items()}
    manifest = SimpleNamespace(attack=attack, protocol="worst", defenses=tuple(shares)[1:])
    return SimpleNamespace(
        manifest=manifest, summary=SimpleNamespace(row=lambda spec, protocol: rows[spec])
    )


def test_of_several_attacks_the_worst_counts_and_of_equals_the_mean() -> None:
    clean = {spec: OnClean(Accuracy(9, 10), 0, 1.0) for spec in ("none", "even", "best", "broken")}
    found = [
        held_under("one", {"none": 1, "even": 5, "best": 5, "broken": 9}),
        held_under("other", {"none": 1, "even": 5, "best": 6, "broken": 4}),
    ]
    choice = choose(clean, limits("2x", 0.03), found)
    assert choice.chosen == "best"
    assert list(choice.robust["even"]) == ["one", "other"]


def test_candidates_are_what_the_run_is_fitted_for(spaces: Subspaces) -> None:
    def build(spec: str) -> Defense[Any]:
        return build_defense(spec, Fitted(spaces))

    found, left_out = candidates(None, build)
    assert len(found) + len(left_out) == len(CANDIDATES)
    assert any(spec.startswith("normalize") for spec in found)
    assert "fit-synonyms" in left_out["synonyms"]
    assert "fit-detectors" in left_out["detect(fpr=0.02)"]
    found, _ = candidates("none, projection,normalize(spelling=none)+projection", build)
    assert [spec.split("(")[0] for spec in found] == ["projection", "normalize"]
    with pytest.raises(ArtifactError, match="fit-synonyms"):
        candidates("synonyms", build)
    with pytest.raises(ConfigError, match="at least one candidate"):
        candidates("none", build)
