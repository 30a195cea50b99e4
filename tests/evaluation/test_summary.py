"""Records to numbers: every figure here was worked out by hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from evaluation_fakes import (
    CONTROL,
    DEFENSE,
    EXAMPLES,
    SwapAttack,
    manifest,
    open_store,
    record,
    systems,
)

from robust_prefix.errors import ConfigError
from robust_prefix.evaluation import Record, Summary, evaluate, headline, summarize
from robust_prefix.evaluation.counting import pooled_spec

OUTCOMES = {"h": "failed", "f": "succeeded", "w": "skipped", "e": "error"}


def rows(
    outcomes: str, defense: str = "none", protocol: str = "direct", **changes: object
) -> list[Record]:
    """One record for each letter: h(eld), f(ooled), w(rong before), e(rror)."""
    role = {"none": "undefended", CONTROL: "control"}.get(defense, "defense")
    found = []
    for example, letter in enumerate(outcomes):
        values: dict[str, object] = {
            "example": example,
            "defense": defense,
            "role": role,
            "protocol": protocol,
            "outcome": OUTCOMES[letter],
            "prediction_original": {"w": 0, "e": None}.get(letter, 1),
            "adversarial": ("a okay film",) if letter == "f" else None,
            "queries": 0 if protocol == "replay" or letter == "w" else 10 * (example + 1),
        }
        found.append(record(**(values | changes)))
    return found


def summary_of(records: Sequence[Record], **changes: object) -> Summary:
    n = len({r.example for r in records})
    return summarize(records, manifest(**({"n": n} | changes)))


def test_counts_and_shares() -> None:
    row = summary_of(rows("hhhffwwe")).row("none", "direct")
    assert (row.n, row.failed, row.succeeded, row.skipped, row.errors) == (8, 3, 2, 2, 1)
    assert row.clean_accuracy.value == 5 / 8  # all but two wrong and one that crashed
    assert row.robust_accuracy.value == 3 / 8
    assert row.attack_success_rate.value == 2 / 5
    assert row.queries_mean is not None
    assert row.queries_mean.value == (10 + 20 + 30 + 40 + 50) / 5  # attacked examples only
    assert row.forward_passes == 1.0
    assert "1 error" in row.flags


def test_intervals_are_wilson() -> None:
    row = summary_of(rows("h" * 15 + "f" * 133)).row("none", "direct")
    assert row.robust_accuracy.interval == [
        pytest.approx(0.0624, abs=5e-5),
        pytest.approx(0.1605, abs=5e-5),
    ]


@pytest.mark.parametrize(
    ("replay", "direct", "worst"),
    [
        ("h", "h", "failed"),
        ("h", "f", "succeeded"),
        ("f", "h", "succeeded"),
        ("f", "f", "succeeded"),
        ("e", "h", "error"),
        ("h", "e", "error"),
        ("f", "e", "succeeded"),
        ("w", "w", "skipped"),
    ],
)
def test_worst_of_one_example(replay: str, direct: str, worst: str) -> None:
    found = summary_of([*rows(replay, DEFENSE, "replay"), *rows(direct, DEFENSE, "direct")])
    row = found.row(DEFENSE, "worst")
    counts = {
        "failed": row.failed,
        "succeeded": row.succeeded,
        "skipped": row.skipped,
        "error": row.errors,
    }
    assert counts == {name: int(name == worst) for name in counts}
    assert row.robust_accuracy.value == float(worst == "failed")


def test_worst_is_counted_by_example_and_not_by_rate() -> None:
    # half hold in each, and none of them in both
    found = summary_of([*rows("hhff", DEFENSE, "replay"), *rows("ffhh", DEFENSE, "direct")])
    values = {
        protocol: found.row(DEFENSE, protocol).robust_accuracy.value
        for protocol in ("replay", "direct", "worst")
    }
    assert values == {"replay": 0.5, "direct": 0.5, "worst": 0.0}
    row = found.row(DEFENSE, "worst")
    assert row.attack_success_rate.value == 1.0
    assert row.queries_mean is not None
    assert row.queries_mean.value == 25.0  # those of the direct attack


def test_worst_needs_both_rows() -> None:
    found = summary_of([*rows("hh", DEFENSE, "replay"), *rows("h", DEFENSE, "direct")])
    assert found.row(DEFENSE, "worst").n == 1
    with pytest.raises(ConfigError, match="expected a protocol"):
        summary_of(rows("hh", DEFENSE, "replay")).row(DEFENSE, "worst")


def test_undefended_stands_for_every_protocol() -> None:
    found = summary_of([*rows("hf"), *rows("hh", DEFENSE, "replay")])
    assert found.row("none", "replay") == found.row("none", "worst") == found.row("none", "direct")
    assert [row.protocol for row in found.at("replay")] == ["direct", "replay"]
    assert found.protocols == ("replay",)


@pytest.mark.parametrize(
    ("records", "defense", "protocol", "flag", "raised"),
    [
        pytest.param(
            rows("h" * 120, DEFENSE, "replay", dynamic=True),
            DEFENSE,
            "replay",
            "dynamic: optimises at inference; replay alone is no evidence",
            True,
            id="dynamic-replay",
        ),
        pytest.param(
            rows("h" * 120, DEFENSE, "direct", dynamic=True),
            DEFENSE,
            "direct",
            "dynamic: optimises at inference; replay alone is no evidence",
            False,
            id="dynamic-direct",
        ),
        pytest.param(
            rows("h" * 120, DEFENSE, "replay"),
            DEFENSE,
            "replay",
            "dynamic: optimises at inference; replay alone is no evidence",
            False,
            id="static-replay",
        ),
        pytest.param(
            rows("h" * 120, DEFENSE, "direct", dynamic=True),
            DEFENSE,
            "direct",
            "no random control beside it",
            True,
            id="no-control",
        ),
        pytest.param(rows("h" * 99), "none", "direct", "small n: 99 examples", True, id="small"),
        pytest.param(rows("h" * 100), "none", "direct", "small n: 100 examples", False, id="100"),
        pytest.param(rows("ee"), "none", "direct", "2 errors", True, id="errors"),
        pytest.param(
            [*rows("hhhhhhhhhf", DEFENSE, "replay"), *rows("hhhhhhhhff", DEFENSE, "direct")],
            DEFENSE,
            "replay",
            "replay better than direct by 10.0 points",
            True,
            id="gap",
        ),
        pytest.param(
            [
                *rows("hhhhhhhhhf" * 2, DEFENSE, "replay"),
                *rows("hhhhhhhhhfhhhhhhhhff", DEFENSE, "direct"),
            ],
            DEFENSE,
            "direct",
            "replay better than direct by 5.0 points",
            False,
            id="small-gap",
        ),
        pytest.param(
            [*rows("hhhhhfff", DEFENSE), *rows("fffffhff", CONTROL)],
            DEFENSE,
            "direct",
            "no better than its random control",
            True,  # 5 against 1 of 6: p = 14/64
            id="as-the-control",
        ),
        pytest.param(
            [*rows("hhhhhhff", DEFENSE), *rows("ffffffff", CONTROL)],
            DEFENSE,
            "direct",
            "no better than its random control",
            False,  # 6 against none: p = 2/64
            id="better-than-the-control",
        ),
        pytest.param(
            [*rows("ffffffff", DEFENSE), *rows("hhhhhhff", CONTROL)],
            DEFENSE,
            "direct",
            "worse than its random control",
            True,
            id="worse-than-the-control",
        ),
        pytest.param(
            [*rows("hh", DEFENSE, "replay"), *rows("hh", DEFENSE, margin_original=1.1)],
            DEFENSE,
            "worst",
            "randomized: one text got different answers",
            True,
            id="randomized",
        ),
        pytest.param(
            [*rows("hh", DEFENSE, "replay"), *rows("hh", DEFENSE)],
            DEFENSE,
            "worst",
            "randomized: one text got different answers",
            False,
            id="deterministic",
        ),
        pytest.param(
            rows("hhh", adversarial=("b",)),
            "none",
            "direct",
            "verification failed for 3 adversaries",
            True,
            id="unverified",
        ),
    ],
)
def test_flags(records: list[Record], defense: str, protocol: str, flag: str, raised: bool) -> None:
    assert (flag in summary_of(records).row(defense, protocol).flags) is raised


def test_an_adversary_that_worked_once_is_not_held() -> None:
    """Whoever answers wrongly in one batch and rightly in another has not held."""
    last = dataclasses.replace(rows("h")[0], example=3)
    row = summary_of([*rows("hhh", adversarial=("b",)), last]).row("none", "direct")
    assert (row.unverified, row.robust_accuracy.value) == (3, 1 / 4)


def test_an_unfinished_run_is_flagged() -> None:
    row = summary_of(rows("hf"), n=60).row("none", "direct")
    assert row.n == 2
    assert "incomplete: 2 of 60 examples" in row.flags


def test_a_substituted_word_list_is_flagged() -> None:
    own = {"resource.wordnet": "data-dir 12ab", "resource.stopwords": "nltk 34cd"}
    for settings, flagged in ((own, False), ({**own, "resource.stopwords": "substitute 5"}, True)):
        row = summary_of(rows("hf"), settings=settings).row("none", "direct")
        assert ("substitute for the attack's own stopwords" in row.flags) is flagged


def test_p_values_compare_the_same_examples() -> None:
    # the control lacks the last examples: 5 pairs, all for the defence, p = 2 / 2**5
    found = summary_of([*rows("ff"), *rows("hhhhhhh", DEFENSE), *rows("fffff", CONTROL)])
    row = found.row(DEFENSE, "direct")
    assert row.p_value_control == pytest.approx(2 / 2**5)
    assert row.p_value_undefended == pytest.approx(2 / 2**2)
    assert found.row(CONTROL, "direct").p_value_control is None


def test_no_records() -> None:
    with pytest.raises(ConfigError, match="a run without any"):
        summarize([], manifest())


def test_unknown_defense() -> None:
    with pytest.raises(ConfigError, match="did you mean 'thesaurus"):
        summary_of(rows("h", DEFENSE)).row("thesaurus(words=4)", "direct")


def test_headline_is_flat_json(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
        summary = summarize(store.records(), store.manifests[0])
    for defense, robust in ((DEFENSE, 5 / 6), (CONTROL, 3 / 6), ("none", 2 / 6)):
        line = json.loads(json.dumps(headline(summary, defense, "worst"), allow_nan=False))
        assert line["robust_accuracy"] == pytest.approx(robust, abs=1e-6)
        assert (line["protocol"], line["defense"]) == ("worst", defense)
    assert line["clean_accuracy"] == pytest.approx(5 / 6, abs=1e-6)
    assert line["attack_success_rate"] == 0.6
    assert line["n"] == 6
    assert line["attack"] == "swap(words=all)"
    assert line["queries_mean"] == 1.6  # 2, 2, 3, 0 and 1; the skipped one does not count
    for name in ("clean_accuracy", "robust_accuracy", "attack_success_rate"):
        low, high = line[f"{name}_interval"]
        assert 0 <= low < line[name] < high <= 1
    assert line["flags"] == [
        "small n: 6 examples",
        "never tried on 1 of 5 texts",  # nothing in "flat and flat again" has a synonym
        "not checked: no probe of this system",
    ]
    assert not any(isinstance(value, dict) for value in line.values())


SEEDS = tuple(f"random-prefix(rms=0.2, seed={seed})" for seed in range(3))
POOLED = "random-prefix(rms=0.2, seed=0/1/2)"


def pooled(outcomes: Sequence[str], defense: str = "hhhhhhff") -> Summary:
    """A defence beside a control of three seeds."""
    records = rows(defense, DEFENSE)
    for spec, letters in zip(SEEDS, outcomes, strict=True):
        records += rows(letters, spec, role="control")
    return summary_of(records, controls={DEFENSE: SEEDS})


def test_the_seeds_of_a_control_are_one_row() -> None:
    found = pooled(["hhhhffff", "hhffffff", "hwffffff"])
    assert [(row.role, row.defense) for row in found.rows] == [
        ("defense", DEFENSE),
        ("control", POOLED),
    ]
    row = found.row(POOLED, "direct")
    assert (row.n, row.seeds, row.control_of) == (8, 3, DEFENSE)
    assert (row.failed, row.succeeded, row.skipped, row.errors) == (7, 16, 1, 0)
    assert row.robust_accuracy.value == pytest.approx((4 + 2 + 1) / 3 / 8)
    assert row.clean_accuracy.value == pytest.approx((8 + 8 + 7) / 3 / 8)
    assert row.attack_success_rate.value == pytest.approx(16 / 23)
    assert row.queries_mean is not None
    assert row.queries_mean.value == pytest.approx((360 + 360 + 340) / 23)
    assert row.robust_accuracy.low < row.robust_accuracy.value < row.robust_accuracy.high
    defended = found.row(DEFENSE, "direct")
    # held oftener by 0, 1, 2, 2, 3, 3, 0, 0 seeds: of 32 ways to sign the five two are as extreme
    assert defended.p_value_control == pytest.approx(2 / 32)
    assert "no better than its random control" in defended.flags
    assert found.control(defended) is row
    front = headline(found, DEFENSE, "direct")
    assert (front["control"], front["control_robust_accuracy"]) == (POOLED, round(7 / 24, 6))


def test_a_control_that_is_better() -> None:
    found = pooled(["hhhhhhhh", "hhhhhhhf", "hhhhhhff"], defense="ffffffff")
    assert "worse than its random control" in found.row(DEFENSE, "direct").flags


def test_an_unfinished_control_is_flagged() -> None:
    row = pooled(["hhhhffff", "hhff", ""]).row("random-prefix(rms=0.2, seed=0/1)", "direct")
    assert "incomplete: 12 of 24 examples" in row.flags
    assert (row.n, row.seeds) == (8, 2)


def test_a_control_stands_beside_its_own_defense() -> None:
    other = "projection(strength=1.0)"
    records = [*rows("ff"), *rows("hh", DEFENSE), *rows("fh", other), *rows("hf", CONTROL)]
    found = summary_of(records, defenses=(other, DEFENSE))
    assert [row.defense for row in found.at("direct")] == ["none", other, DEFENSE, CONTROL]
    assert found.row(other, "direct").p_value_control is None
    assert found.row(DEFENSE, "direct").p_value_control == 1.0
    assert found.control(found.row(other, "direct")) is None


@pytest.mark.parametrize(
    ("specs", "name"),
    [
        (["a(x=1, seed=0)"], "a(x=1, seed=0)"),
        (["a(x=1, seed=0)", "a(x=1, seed=7)"], "a(x=1, seed=0/7)"),
        (["n(k=1)+a(seed=0)", "n(k=1)+a(seed=1)"], "n(k=1)+a(seed=0/1)"),
        (["a", "a"], "a"),
    ],
)
def test_one_name_for_several_seeds(specs: list[str], name: str) -> None:
    assert pooled_spec(specs) == name


def test_a_direct_and_an_adaptive_attack_have_a_worst_case() -> None:
    records = [
        *rows("hhhh"),
        *rows("ffhh", DEFENSE),
        *rows("hhff", DEFENSE, "adaptive"),
    ]
    summary = summary_of(
        records, defenses=(DEFENSE,), protocols=("direct", "adaptive"), hiding=(DEFENSE,)
    )
    assert summary.headline["protocol"] == "worst"
    assert summary.headline["robust_accuracy"] == 0.0
    # where nothing is hidden the two are the same attack
    plain = summary_of(records[:8], defenses=(DEFENSE,), protocols=("direct", "adaptive"))
    assert (plain.headline["protocol"], plain.headline["robust_accuracy"]) == ("adaptive", 0.5)
    # and in one matrix with what hides something its row is that of the worst case, too
    other = "other"
    records += rows("hffh", other)
    both = summary_of(
        records, defenses=(DEFENSE, other), protocols=("direct", "adaptive"), hiding=(DEFENSE,)
    )
    assert {row.defense for row in both.at("worst")} == {"none", DEFENSE, other}


def test_what_is_replayed_to_an_optimising_defence_gives_no_headline_of_robustness() -> None:
    records = [*rows("ffff"), *rows("hhhf", DEFENSE, "replay", dynamic=True)]
    summary = summary_of(records, defenses=(DEFENSE,), protocols=("replay",))
    assert summary.headline["robust_accuracy"] is None
    assert summary.headline["robust_accuracy_interval"] is None
    assert summary.headline["clean_accuracy"] == 1.0
    assert summary.row(DEFENSE, "replay").robust_accuracy.value == 0.75  # the table tells it


def test_what_was_claimed_and_not_confirmed_is_not_among_the_held() -> None:
    [first, *others] = rows("hhh", DEFENSE)
    unverified = dataclasses.replace(
        first,
        adversarial=("a okay film",),
        prediction_adversarial=None,
        margin_adversarial=0.0,
    )
    refused = dataclasses.replace(
        others[0],
        protocol="replay",
        adversarial=("a okay film",),
        prediction_adversarial=None,
        margin_adversarial=0.0,
    )
    row = summary_of([*rows("hhh"), unverified, *others]).row(DEFENSE, "direct")
    assert (row.failed, row.held, row.unverified, row.refused_adversaries) == (3, 2, 1, 0)
    assert summary_of([refused]).row(DEFENSE, "replay").refused_adversaries == 1


def test_a_protocol_that_cannot_be_carried_out_is_no_interrupted_run() -> None:
    records = [*rows("hhhf"), *rows("hhhf", DEFENSE, "replay")]
    wanted = {"defenses": (DEFENSE,), "protocols": ("replay", "direct")}
    assert summary_of(records, **wanted).headline["flags"] == [
        f"not evaluated under worst: {DEFENSE}"
    ]
    [flag] = summary_of(records, **{**wanted, "n": 9}).headline["flags"]
    assert flag.startswith("incomplete")
