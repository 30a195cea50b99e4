"""Attacks by one who knows what a defence hides, beside those by one who does not."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_fakes import EXAMPLES, SYNONYMS, LexiconClassifier, SwapAttack, manifest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from robust_prefix.detection import Decisions
from robust_prefix.evaluation import (
    Attempt,
    Example,
    Manifest,
    RecordStore,
    System,
    Victim,
    evaluate,
)
from robust_prefix.evaluation.compare import compare
from robust_prefix.evaluation.detected import adversaries_in
from robust_prefix.evaluation.markdown import render_markdown
from robust_prefix.evaluation.reading import read
from robust_prefix.evaluation.report.html import render_report
from robust_prefix.evaluation.results import Results
from robust_prefix.evaluation.tables import summary_table
from robust_prefix.evaluation.trial import example_seed
from robust_prefix.tasks import Fields

SPEC = "bounded(limit=1)"
SHOWING = "thesaurus(words=0)"
PROTOCOLS = ("replay", "direct", "adaptive", "worst")


class Bounded(LexiconClassifier):
    """Puts no class ahead of the other by more than one, and answers as if it did not."""

    def __init__(self, spec: str = SPEC) -> None:
        super().__init__(spec)

    def decide(self, texts: Sequence[Fields]) -> Decisions:
        scores = self.logits(texts)
        ahead = (scores - scores.max(1, keepdim=True).values).clamp(min=-1)
        return Decisions(ahead, unhidden=(scores,))


class Greedy(SwapAttack):
    """Swaps a word where that lowers the score of the class, as most attacks do."""

    def perturb(self, victim: Victim, fields: Fields, label: int, seed: int) -> Attempt:
        words = fields[-1].split()
        best = self._score(victim, words, label)
        for place, word in enumerate(words):
            for other in SYNONYMS.get(word, [])[:1]:
                changed = [*words[:place], other, *words[place + 1 :]]
                score = self._score(victim, changed, label)
                if score < best:
                    words, best = changed, score
                if best < 0:
                    return Attempt((" ".join(words),), 1)
        return Attempt(None, 1)

    def _score(self, victim: Victim, words: Sequence[str], label: int) -> float:
        scores = victim.logits([(" ".join(words),)])[0]
        return float(scores[label] - scores[1 - label])


class Universal(Greedy):
    """Greedy, but it asks before it begins, and remembers what it saw."""

    def fit(self, victim: Victim, examples: Sequence[Example], seed: int) -> str:
        return str(float(np.ptp(victim.logits([examples[0].fields])[0])))

    def fitted(self, state: str) -> Greedy:
        assert float(state) > 0
        return self


def run(
    folder: Path, *protocols: str, hiding: tuple[str, ...] = (SPEC,), attack: Greedy | None = None
) -> Results:
    attack = attack or Greedy()
    systems = [
        System("undefended", LexiconClassifier()),
        System("defense", Bounded()),
        System("defense", LexiconClassifier(SHOWING)),
    ]
    cell = manifest(
        defenses=(SPEC, SHOWING), controls={}, protocols=protocols, hiding=hiding, seed=0
    )
    with RecordStore(folder / "run.sqlite", cell) as store:
        evaluate(systems, attack, EXAMPLES, store, cell, training=lambda: EXAMPLES)
        [results] = Results.read(store)
    return results


def outcomes(results: Results, defense: str) -> dict[str, str]:
    """What became of the first example, at +4 and so beyond the bound, by protocol."""
    return {
        record.protocol: record.outcome
        for record in results.records
        if record.defense == defense and record.example == EXAMPLES[0].index
    }


def test_a_bound_misleads_who_does_not_see_behind_it(tmp_path: Path) -> None:
    results = run(tmp_path, "worst")
    found = outcomes(results, SPEC)
    # replayed adversaries of a system that answers the same fool it, too
    assert found == {"replay": "succeeded", "direct": "failed", "adaptive": "succeeded"}
    # without a bound there is nothing more to see, and nothing is attacked twice
    assert outcomes(results, SHOWING) == {"replay": "succeeded", "direct": "succeeded"}
    held = {name: results.summary.row(SPEC, name).robust_accuracy.value for name in PROTOCOLS}
    alone = results.summary.row(SHOWING, "direct").robust_accuracy.value
    assert held["direct"] > held["adaptive"] == held["worst"] == alone
    # the system itself judges, by the scores that it answers with
    margins = [r.margin_original for r in results.records if r.defense == SPEC]
    assert max(map(abs, margins)) <= 1


def test_without_a_replay_the_worst_of_both_searches_is_the_strictest(tmp_path: Path) -> None:
    results = run(tmp_path, "direct", "adaptive")
    assert outcomes(results, SPEC) == {"direct": "failed", "adaptive": "succeeded"}
    assert results.manifest.protocol == "worst"
    at_worst = [(row.defense, row.protocol) for row in results.summary.at("worst")]
    assert at_worst == [("none", "direct"), (SPEC, "worst"), (SHOWING, "direct")]
    assert results.manifest.total == 6 * (1 + 2 + 1)


def test_an_adaptive_attack_on_what_hides_nothing_is_the_direct_one(tmp_path: Path) -> None:
    results = run(tmp_path, "adaptive", hiding=())
    assert set(outcomes(results, SPEC)) == set(outcomes(results, SHOWING)) == {"direct"}
    direct = results.summary.row(SPEC, "direct")
    assert results.summary.row(SPEC, "adaptive") == direct
    assert results.summary.headline["robust_accuracy"] == pytest.approx(
        direct.robust_accuracy.value, abs=1e-6
    )


def test_what_hides_nothing_stands_beside_what_does(tmp_path: Path) -> None:
    summary = run(tmp_path, "worst").summary
    adaptive = [(row.defense, row.protocol) for row in summary.at("adaptive")]
    assert adaptive == [("none", "direct"), (SPEC, "adaptive"), (SHOWING, "direct")]
    assert [row.defense for row in summary.at("direct")] == ["none", SPEC, SHOWING]


def test_a_replay_and_an_adaptive_attack_have_a_worst_case(tmp_path: Path) -> None:
    results = run(tmp_path, "replay", "adaptive")
    assert results.manifest.protocol == "worst"
    summary = results.summary
    assert [row.defense for row in summary.at("worst")] == ["none", SPEC, SHOWING]
    assert any("bounded" in sentence for sentence in read(summary))


def test_the_worst_case_costs_what_its_attacks_cost_together(tmp_path: Path) -> None:
    summary = run(tmp_path, "worst").summary
    costs = {name: summary.row(SPEC, name).costs for name in PROTOCOLS}
    for name in ("model_queries", "attack_passes"):
        direct, adaptive, worst = (
            getattr(costs[protocol], name).value for protocol in ("direct", "adaptive", "worst")
        )
        assert worst == pytest.approx(direct + adaptive)


def test_the_curves_are_those_of_who_knows_what_is_hidden(tmp_path: Path) -> None:
    knows = "bounded, knowing what it hides"
    assert knows in render_report([run(tmp_path, "worst")])
    page = render_report([run_alone(tmp_path / "alone")])
    assert knows in page


def test_controls_that_were_not_attacked_so_are_flagged_too(tmp_path: Path) -> None:
    controls = tuple(f"bounded(limit=1, shuffled={seed})" for seed in (0, 1))
    cell = manifest(
        defenses=(SPEC,),
        controls={SPEC: controls},
        protocols=("direct",),
        hiding=(SPEC, *controls),
    )
    systems = [System("undefended", LexiconClassifier()), System("defense", Bounded())]
    systems += [System("control", Bounded(spec)) for spec in controls]
    with RecordStore(tmp_path / "run.sqlite", cell) as store:
        evaluate(systems, Greedy(), EXAMPLES, store, cell)
        [results] = Results.read(store)
    [row] = [row for row in results.summary.rows if row.role == "control"]
    assert row.seeds == 2
    assert "hides its scores, and was not attacked knowing them" in row.flags


def test_the_worst_of_two_is_not_compared_with_the_worst_of_three(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    found = compare([run(tmp_path, "replay", "direct")], [run(tmp_path / "all", "worst")])
    assert {row.protocol for row in found.rows if row.defense == SPEC} == {"replay", "direct"}
    assert {row.protocol for row in found.rows if row.defense == SHOWING} == {
        "replay",
        "direct",
        "worst",
    }
    [only] = found.only_first
    assert only.endswith(f"{SPEC}: worst of replay and direct")
    [more] = found.only_second
    assert more.endswith(f"{SPEC}: adaptive, worst of replay and direct and adaptive")


def test_adversaries_of_each_protocol_stay_apart(tmp_path: Path) -> None:
    records = run(tmp_path, "worst").records
    found = [each for each in adversaries_in(records) if each.defense == SPEC]
    assert {each.protocol: len(each.texts) for each in found} == {
        protocol: sum(
            r.outcome == "succeeded" for r in records if (r.defense, r.protocol) == (SPEC, protocol)
        )
        for protocol in ("direct", "adaptive")
    }
    assert len(found) == 2


def test_a_gap_and_an_attack_that_was_left_out_are_flagged(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    flags = run(tmp_path / "all", "worst").summary.row(SPEC, "worst").flags
    [gap] = [flag for flag in flags if flag.startswith("hides its scores")]
    assert gap.startswith("hides its scores: direct better than adaptive by ")
    results = run(tmp_path, "replay", "direct")
    left_out = "hides its scores, and was not attacked knowing them"
    assert left_out in results.summary.row(SPEC, "direct").flags
    assert left_out not in results.summary.row(SPEC, "replay").flags
    assert left_out not in results.summary.row(SHOWING, "direct").flags


def test_one_change_for_all_texts_is_looked_for_under_each_protocol(tmp_path: Path) -> None:
    results = run(tmp_path, "worst", attack=Universal())
    seen = {place: float(state["state"]) for place, state in results.states.items()}
    assert seen[SPEC, "direct"] == 1.0
    assert seen[SHOWING, "direct"] == pytest.approx(3.95)
    assert seen[SPEC, "adaptive"] == pytest.approx((1.0 + 3.95) / 2)  # the bounded and the free
    assert (SHOWING, "adaptive") not in seen
    page = render_report([results])
    assert "what it hides in view, that took 1 queries" in page.replace("\n", " ")


def test_it_is_told_in_words_and_tables(tmp_path: Path) -> None:
    results = run(tmp_path, "worst")
    console = Console(file=io.StringIO(), width=160)
    console.print(summary_table(results.summary))
    assert "adaptive" in console.file.getvalue()
    assert "### adaptive" in render_markdown([results], {})
    assert "also sees the scores that a system hides" in render_report([results])
    alone = run_alone(tmp_path / "alone")
    assert any(s.startswith("Attacked by one who also sees") for s in read(alone.summary))


def run_alone(folder: Path) -> Results:
    folder.mkdir()
    cell = manifest(defenses=(SPEC,), controls={}, protocols=("adaptive",), hiding=(SPEC,))
    systems = [System("undefended", LexiconClassifier()), System("defense", Bounded())]
    with RecordStore(folder / "run.sqlite", cell) as store:
        evaluate(systems, Greedy(), EXAMPLES, store, cell)
        [results] = Results.read(store)
    return results


def test_scores_are_revealed_where_the_answer_is_the_same() -> None:
    shown = Decisions(
        torch.tensor([[0.5, -0.5], [0.2, -0.2], [-0.1, 0.1]]),
        unhidden=(torch.tensor([[3.5, -3.5], [-4.0, 4.0], [2.0, -2.0]]),),
    ).revealed
    # in the second what stands behind the bound is turned, and the rest is not yet
    torch.testing.assert_close(shown.logits, torch.tensor([[2, -2], [0.1, -0.1], [-0.05, 0.05]]))
    assert shown.unhidden == ()
    plain = Decisions(torch.zeros(1, 2))
    assert plain.revealed is plain


scores = st.lists(st.floats(-9, 9, width=32), min_size=3, max_size=3)


@given(scores, st.lists(scores, min_size=1, max_size=2))
@example(own=[-1.401298464324817e-45, 0.0, 0.0], free=[[0.0, 0.0, 0.0]])
def test_what_is_revealed_gives_the_answer_that_is_given(
    own: list[float], free: list[list[float]]
) -> None:
    found = Decisions(torch.tensor([own]), unhidden=tuple(torch.tensor([each]) for each in free))
    assert found.revealed.labels == found.labels


@given(
    st.lists(st.floats(-4, 4, width=16), min_size=2, max_size=2),
    st.lists(st.floats(0, 2, width=16), min_size=2, max_size=2),
)
def test_whatever_helps_an_attacker_shows(start: list[float], steps: list[float]) -> None:
    """Of a bounded classifier beside bounded words: as either gives way, the margin never rises."""

    def margin(classifier: float, words: float) -> float:
        said, free = (torch.tensor([[0.0, -each]]) for each in (classifier, words))
        held, limited = said.clamp(-0.7, 0.7), free.clamp(-0.9, 0.9)
        found = Decisions(held + limited, unhidden=(said + free, held + free))
        if found.labels != [0]:
            return -1.0
        [[own, other]] = found.revealed.logits.tolist()
        return own - other

    after = [value - step for value, step in zip(start, steps, strict=True)]
    assert margin(*after) <= margin(*start) + 1e-6


def test_an_adaptive_attack_draws_as_the_direct_one() -> None:
    """What it finds beyond that is for what it sees, not for another throw of the dice."""
    cell = manifest(protocols=("worst",), hiding=(SPEC,), seed=3)
    keys = [cell.key(SPEC, protocol, EXAMPLES[0].index) for protocol in ("direct", "adaptive")]
    assert keys[0] != keys[1]
    assert example_seed(keys[0]) == example_seed(keys[1])


def test_a_manifest_of_before_hides_nothing() -> None:
    values = json.loads(manifest().to_json())
    del values["hiding"]
    assert Manifest.from_json(json.dumps(values)) == manifest()


def test_adversaries_of_two_splits_share_a_number_and_none_is_lost(tmp_path: Path) -> None:
    records = [r for r in run(tmp_path, "direct").records if r.outcome == "succeeded"]
    elsewhere = [dataclasses.replace(r, original=("another text",)) for r in records]
    for each in adversaries_in([*records, *elsewhere, *records]):
        mine = [r for r in records if r.defense == each.defense]
        assert len(each.texts) == 2 * len(mine) > 0
