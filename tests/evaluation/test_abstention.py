"""Systems that may refuse to answer: what becomes of their records, and of the counts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from evaluation_fakes import EXAMPLES, LABELS, LexiconClassifier, SwapAttack
from rich.console import Console

from robust_prefix.detection import Decisions
from robust_prefix.evaluation import Manifest, Record, RecordStore, System, evaluate
from robust_prefix.evaluation.reading import read
from robust_prefix.evaluation.results import Results
from robust_prefix.evaluation.tables import record_panel
from robust_prefix.evaluation.trial import CountingVictim
from robust_prefix.tasks import Fields

SPEC = "detect(score=words)"


class Wary(LexiconClassifier):
    """Refuses texts with any of some words."""

    def __init__(self, refused: Sequence[str]) -> None:
        super().__init__(SPEC)
        self.refused = refused

    def decide(self, texts: Sequence[Fields]) -> Decisions:
        found = [any(word in text[0].split() for word in self.refused) for text in texts]
        return Decisions(self.logits(texts), torch.tensor([1.0 if no else -1.0 for no in found]))


def run(refused: Sequence[str], tmp_path: Path) -> Results:
    attack = SwapAttack()
    systems = [System("undefended", LexiconClassifier()), System("defense", Wary(refused))]
    manifest = Manifest(
        *("reviews", ("text",), LABELS, "lexicon", "p", attack.spec),
        seed=0,
        n=len(EXAMPLES),
        test_fingerprint="f",
        defenses=(SPEC,),
    )
    with RecordStore(tmp_path / "run.sqlite", manifest) as store:
        evaluate(systems, attack, EXAMPLES, store, manifest)
        [results] = Results.read(store)
    return results


def test_a_refused_adversary_is_no_success(tmp_path: Path) -> None:
    """Every synonym of a gorgeous film is refused, so no search finds its way."""
    results = run(["lovely", "dull", "clever"], tmp_path)
    gorgeous = [r for r in results.records if r.example == 10]
    undefended, *defended = gorgeous
    assert undefended.outcome == "succeeded"
    for record in defended:
        assert (record.outcome, record.held, record.unverified) == ("failed", True, False)
    [replay] = [r for r in defended if r.protocol == "replay"]
    assert replay.adversarial == undefended.adversarial
    assert replay.prediction_adversarial is None
    assert replay.abstained_adversarial
    row = results.summary.row(SPEC, "replay")
    assert row.refused_adversaries >= 1
    assert any("refuses to answer" in sentence for sentence in read(results.summary))
    assert "refused" in _plain(replay)


def test_a_refused_original_is_no_right_answer(tmp_path: Path) -> None:
    results = run(["gorgeous"], tmp_path)
    mine = [r for r in results.records if r.example == 10 and r.defense == SPEC]
    assert {r.outcome for r in mine} == {"skipped"}
    assert all(r.abstained_original and r.prediction_original is None for r in mine)
    defended = results.summary.row(SPEC, "worst")
    undefended = results.summary.row("none", "worst")
    assert defended.abstention_rate.value == pytest.approx(1 / len(EXAMPLES))
    assert undefended.abstention_rate.value == 0
    assert undefended.clean_accuracy.value is not None
    assert defended.clean_accuracy.value == pytest.approx(
        undefended.clean_accuracy.value - 1 / len(EXAMPLES)
    )
    assert defended.to_dict()["abstention_rate"] == pytest.approx(1 / len(EXAMPLES), abs=1e-6)


def test_a_search_for_all_texts_sees_what_is_refused() -> None:
    """By the scores alone a word that is refused everywhere would look as good as one that is not;
    asking is counted in one place."""
    victim = CountingVictim(Wary(["dull"]))
    texts = [("dull witty fine film",), ("clumsy flat film",)]
    assert list(victim.logits(texts).argmax(1)) == [1, 0]
    assert list(victim.facing(0).logits(texts).argmax(1)) == [0, 0]
    refused = victim.facing(1).logits([("dull flat film",), ("clumsy flat film",)])
    assert list(refused.argmax(1)) == [1, 0]
    assert victim.queries == 6


def test_an_attack_that_gets_past_the_detector_succeeds(tmp_path: Path) -> None:
    results = run(["nothing"], tmp_path)
    outcomes = {
        spec: [r.outcome for r in results.records if r.defense == spec and r.protocol == "direct"]
        for spec in ("none", SPEC)
    }
    assert outcomes["none"] == outcomes[SPEC]


def _plain(record: Record) -> str:
    page = io.StringIO()
    Console(file=page, width=120).print(record_panel(record, LABELS))
    return page.getvalue()
