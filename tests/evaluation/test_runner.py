"""What counts as what: the outcomes of every kind of example, attack and mishap."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_fakes import (
    ALONE,
    CONTROL,
    DEFENSE,
    EXAMPLES,
    FakeTask,
    FunctionAttack,
    LexiconClassifier,
    SwapAttack,
    manifest,
    open_store,
    record,
    systems,
    without_time,
)

from robust_prefix.errors import (
    ArtifactError,
    ConfigError,
    InputError,
    ResourceError,
    RobustPrefixError,
    StorageError,
)
from robust_prefix.evaluation import (
    Attempt,
    CountingVictim,
    Example,
    Record,
    RecordStore,
    Results,
    System,
    evaluate,
    summarize,
    write_results,
)
from robust_prefix.evaluation.protocols import ThreatModel
from robust_prefix.evaluation.runner import Started, attack_example
from robust_prefix.evaluation.trial import example_seed
from robust_prefix.tasks import Fields

HELD, FOOLED, WRONG = "failed", "succeeded", "skipped"


def outcomes(store: RecordStore, defense: str, protocol: str) -> list[str]:
    return [r.outcome for r in store.records() if (r.defense, r.protocol) == (defense, protocol)]


def only(store: RecordStore) -> Record:
    (found,) = store.records()
    return found


def run_one(
    folder: Path,
    attack: FunctionAttack,
    text: str = "it is witty",
    label: int = 1,
    classifier: LexiconClassifier | None = None,
) -> Record:
    """The record of one example under the undefended system alone."""
    with open_store(folder, n=1, **ALONE) as store:
        undefended = [System("undefended", classifier or LexiconClassifier())]
        evaluate(undefended, attack, [Example(0, (text,), label)], store, store.manifests[0])
        return only(store)


def test_outcomes_of_every_system_and_protocol(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
        # a gorgeous.. | a fine.. | dull.. | flat.. | a witty but.. | it is witty
        assert outcomes(store, "none", "direct") == [FOOLED, FOOLED, HELD, HELD, WRONG, FOOLED]
        assert outcomes(store, "none", "replay") == []
        assert outcomes(store, DEFENSE, "direct") == [HELD, HELD, HELD, HELD, WRONG, HELD]
        assert outcomes(store, DEFENSE, "replay") == [HELD, HELD, HELD, HELD, WRONG, HELD]
        assert outcomes(store, CONTROL, "direct") == [FOOLED, HELD, HELD, HELD, WRONG, FOOLED]
        assert outcomes(store, CONTROL, "replay") == [FOOLED, HELD, HELD, HELD, WRONG, FOOLED]


@pytest.mark.parametrize(
    ("protocol", "rows"),
    [
        ("direct", {"direct": 18}),
        ("replay", {"direct": 6, "replay": 12}),
        ("worst", {"direct": 18, "replay": 12}),
    ],
)
def test_rows_of_a_protocol(tmp_path: Path, protocol: str, rows: dict[str, int]) -> None:
    with open_store(tmp_path, protocols=(protocol,)) as store:
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
        found = [r.protocol for r in store.records()]
    assert {name: found.count(name) for name in set(found)} == rows


def test_a_replay_shows_the_undefended_adversary_and_attacks_nothing(tmp_path: Path) -> None:
    attack = SwapAttack()
    with open_store(tmp_path, protocols=("replay",)) as store:
        evaluate(systems(), attack, EXAMPLES, store, store.manifests[0])
        records = store.records()
    by_example = {r.example: r for r in records if r.role == "undefended"}
    replays = [r for r in records if r.protocol == "replay"]
    assert len(attack.seeds) == 5  # the undefended system alone, without the skipped example
    for replay in replays:
        source = by_example[replay.example]
        expected = source.adversarial if source.outcome == FOOLED else None
        assert (replay.adversarial if replay.outcome != WRONG else expected) == expected
        assert replay.queries == 0


def test_numbers_of_one_record(tmp_path: Path) -> None:
    def attack(fields: Fields) -> Attempt:
        return Attempt(("it is clever",), queries=41)

    found = run_one(tmp_path, FunctionAttack(attack))
    assert (found.outcome, found.queries, found.model_queries) == (FOOLED, 41, 2)
    assert (found.forward_passes, found.backward_passes) == (2.0, 0.0)
    assert (found.prediction_original, found.prediction_adversarial) == (1, 0)
    assert found.margin_original == pytest.approx(1.95)  # 1.0 against -1.0 + 0.05
    assert found.margin_adversarial == pytest.approx(-0.05)
    assert found.message == ""


def test_a_prediction_costs_what_the_first_answer_did(tmp_path: Path) -> None:
    """An attack's texts begin alike and share work: that is no cheaper prediction."""

    class Sharing(LexiconClassifier):
        def logits(self, texts: Sequence[Fields]) -> torch.Tensor:
            before = self.defense.cost.forward
            found = super().logits(texts)
            self.defense.cost.forward = before + (1.0 if len(texts) == 1 else 0.1 * len(texts))
            return found

    class Asking(FunctionAttack):
        def perturb(self, victim: Any, fields: Fields, label: int, seed: int) -> Attempt:
            victim.logits([fields] * 20)
            return Attempt(None, 20)

    with open_store(tmp_path, n=1, **ALONE) as store:
        evaluate(
            [System("undefended", Sharing())],
            Asking(lambda fields: Attempt(None, 20)),
            [Example(0, ("it is witty",), 1)],
            store,
            store.manifests[0],
        )
        found = only(store)
        assert (found.forward_passes, found.model_queries) == (3.0, 21)
        assert (found.prediction_forward_passes, found.prediction_backward_passes) == (1.0, 0.0)
        [row] = Results.read(store)[0].summary.rows
        assert (row.forward_passes, row.costs.prediction) == (1.0, 1.0)


def test_margin_is_to_the_best_other_class(tmp_path: Path) -> None:
    task = FakeTask(labels=("a", "b", "c"))
    classifier = LexiconClassifier(task=task)
    classifier.logits = lambda texts: torch.tensor([[0.5, 3.0, 1.25]] * len(texts))  # type: ignore[method-assign]
    with open_store(tmp_path, labels=task.labels, **ALONE) as store:
        evaluate(
            [System("undefended", classifier)],
            FunctionAttack(lambda fields: Attempt(None, 1)),
            [Example(0, ("x",), 1), Example(1, ("y",), 0)],
            store,
            store.manifests[0],
        )
        held, wrong = store.records()
    assert (held.outcome, held.margin_original) == (HELD, 1.75)
    assert (wrong.outcome, wrong.margin_original, wrong.prediction_original) == (WRONG, -2.5, 1)


def test_a_claimed_adversary_that_fools_nobody_is_held(tmp_path: Path) -> None:
    found = run_one(tmp_path, FunctionAttack(lambda fields: Attempt(("it is warm",), 5)))
    assert found.outcome == HELD
    assert found.adversarial == ("it is warm",)
    assert found.unverified
    assert found.message == "the attack reported an adversary, and it did not fool the model"
    (row,) = summarize([found], manifest(n=1, **ALONE)).rows
    assert "verification failed for 1 adversary" in row.flags


def test_a_held_claim_is_not_replayed(tmp_path: Path) -> None:
    # "sly" fools the defended alone; the attack's claim against the undefended model is false
    fooled = LexiconClassifier(DEFENSE, {"sly": -4})
    with open_store(tmp_path, protocols=("replay",), controls={}, n=1) as store:
        evaluate(
            [System("undefended", LexiconClassifier()), System("defense", fooled)],
            FunctionAttack(lambda fields: Attempt(("it is witty sly",), 5)),
            [Example(0, ("it is witty",), 1)],
            store,
            store.manifests[0],
        )
        source, replay = store.records()
    assert (source.outcome, source.unverified) == (HELD, True)
    assert (replay.outcome, replay.adversarial) == (HELD, None)


def crash(fields: Fields) -> Attempt:
    raise RuntimeError("the synonym list burnt down")


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        pytest.param(crash, "RuntimeError: the synonym list burnt down", id="crash"),
        pytest.param(lambda f: Attempt(("a", "b"), 1), "columns ('text',)", id="columns"),
        pytest.param(lambda f: Attempt((3,), 1), "columns ('text',)", id="no-string"),
        pytest.param(lambda f: None, "AttributeError", id="no-attempt"),
    ],
)
def test_a_crash_is_an_error_and_never_held(tmp_path: Path, attack, message: str) -> None:  # type: ignore[no-untyped-def]
    found = run_one(tmp_path, FunctionAttack(attack))
    assert found.outcome == "error"
    assert message in found.message
    assert "Traceback" in found.message
    (row,) = summarize([found], manifest(n=1, **ALONE)).rows
    assert row.robust_accuracy.value == 0.0
    assert row.attack_success_rate.value is None
    assert "1 error" in row.flags


@pytest.mark.parametrize(
    "logits",
    [
        pytest.param(torch.tensor([[float("nan"), 1.0]]), id="nan"),
        pytest.param(torch.tensor([[float("inf"), 1.0]]), id="infinite"),
        pytest.param(torch.zeros(1, 3), id="classes"),
        pytest.param(torch.zeros(2), id="one-dimension"),
    ],
)
def test_logits_without_a_meaning_are_an_error(tmp_path: Path, logits: torch.Tensor) -> None:
    classifier = LexiconClassifier()
    classifier.logits = lambda texts: logits  # type: ignore[method-assign]
    found = run_one(tmp_path, FunctionAttack(lambda f: Attempt(None, 0)), classifier=classifier)
    assert found.outcome == "error"
    assert "expected finite logits of shape (1, 2)" in found.message


def test_a_replay_of_a_crash_is_an_error(tmp_path: Path) -> None:
    with open_store(tmp_path, protocols=("replay",), n=1) as store:
        evaluate(systems(), FunctionAttack(crash), EXAMPLES[:1], store, store.manifests[0])
        records = store.records()
        assert [r.outcome for r in records] == ["error"] * 3
        # what is right before an attack does not hang on the attack
        assert [r.prediction_original for r in records] == [1] * 3


@pytest.mark.parametrize(
    "kind", [ArtifactError, ResourceError, StorageError, ConfigError, KeyboardInterrupt]
)
def test_what_ends_the_run(tmp_path: Path, kind: type[BaseException]) -> None:
    def attack(fields: Fields) -> Attempt:
        raise kind("no")

    with open_store(tmp_path, **ALONE) as store:
        undefended = [System("undefended", LexiconClassifier())]
        with pytest.raises(kind):
            evaluate(undefended, FunctionAttack(attack), EXAMPLES, store, store.manifests[0])
        assert len(store) == 0


@pytest.mark.parametrize("kind", [InputError, RobustPrefixError])
def test_what_only_ends_the_example(tmp_path: Path, kind: type[Exception]) -> None:
    def attack(fields: Fields) -> Attempt:
        raise kind("an empty text")

    assert run_one(tmp_path, FunctionAttack(attack)).outcome == "error"


def test_the_victim_counts_texts_and_knows_names() -> None:
    victim = CountingVictim(LexiconClassifier())
    assert (victim.labels, victim.columns) == (("negative", "positive"), ("text",))
    assert victim.logits([("fine",), ("dull",), ("flat",)]).shape == (3, 2)
    assert victim.logits([]).shape == (0, 2)
    assert victim.logits([("fine",)]).dtype == "float32"
    assert victim.queries == 4


def test_seeds_depend_on_the_key_and_on_nothing_else(tmp_path: Path) -> None:
    first, second = SwapAttack(), SwapAttack()
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b:
        evaluate(systems(), first, EXAMPLES, a, a.manifests[0])
        evaluate(systems(), second, EXAMPLES[::-1], b, b.manifests[0])
        assert without_time(a.records()) == without_time(b.records())
    assert sorted(first.seeds) == sorted(second.seeds)
    assert len(set(first.seeds)) == len(first.seeds)


@pytest.mark.parametrize("name", ["attack", "defense", "protocol", "example", "seed", "prefix"])
def test_every_part_of_the_key_changes_the_seed(name: str) -> None:
    key = record().key
    other = key._replace(**{name: "replay" if name == "protocol" else 99})
    assert example_seed(key) != example_seed(other)
    assert 0 <= example_seed(key) < 2**32


@pytest.mark.parametrize("stop_after", [0, 7, 29])
def test_a_run_killed_by_ctrl_c_resumes_to_the_same_bytes(tmp_path: Path, stop_after: int) -> None:
    with open_store(tmp_path / "whole") as store:
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
        write_results(store, tmp_path / "whole")

    asked = 0
    queries_before_stop = random.Random(stop_after).randint(1, 3)

    class Interrupted(LexiconClassifier):
        def logits(self, texts):  # type: ignore[no-untyped-def]
            nonlocal asked
            if len(store) >= stop_after:
                asked += 1
                if asked >= queries_before_stop:
                    raise KeyboardInterrupt
            return super().logits(texts)

    interrupted = [
        dataclasses.replace(
            system,
            classifier=Interrupted(
                system.classifier.defense.spec,
                system.classifier.scores,  # type: ignore[attr-defined]
                system.classifier.defense.dynamic,
            ),
        )
        for system in systems()
    ]
    with open_store(tmp_path / "resumed") as store:
        with pytest.raises(KeyboardInterrupt):
            evaluate(interrupted, SwapAttack(), EXAMPLES, store, store.manifests[0])
        assert stop_after <= len(store) < 30
    made: list[int] = []
    with open_store(tmp_path / "resumed") as store:
        left = 30 - len(store)
        evaluate(
            systems(),
            SwapAttack(),
            EXAMPLES,
            store,
            store.manifests[0],
            on_progress=lambda p: made.append(p.done),
        )
        write_results(store, tmp_path / "resumed")
    assert made == list(range(31 - left, 31))
    for name in ("results.csv", "summary.json", "report.html"):
        whole, resumed = ((tmp_path / run / name).read_bytes() for run in ("whole", "resumed"))
        assert whole == resumed, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "ag_news"}, "expected task 'ag_news'"),
        ({"attack": "pwws"}, "expected attack 'pwws'"),
        ({"labels": ("bad", "good")}, "expected labels"),
        ({"controls": {}}, "expected systems"),
        ({"defenses": ("thesaurus(words=4)",)}, "expected systems"),
    ],
)
def test_the_manifest_must_fit(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with open_store(tmp_path, **changes) as store, pytest.raises(ConfigError, match=message):
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        pytest.param([], "the undefended system first", id="none"),
        pytest.param(systems()[::-1], "the undefended system first", id="order"),
        pytest.param(systems()[:2], "expected systems", id="too-few"),
        pytest.param(systems() + systems()[1:2], "each defence once", id="twice"),
    ],
)
def test_the_systems_must_fit(tmp_path: Path, found: list[System], message: str) -> None:
    with open_store(tmp_path) as store, pytest.raises(ConfigError, match=message):
        evaluate(found, SwapAttack(), EXAMPLES, store, store.manifests[0])


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param([EXAMPLES[0], EXAMPLES[0]], id="twice"),
        pytest.param([Example(0, ("a", "b"), 0)], id="columns"),
        pytest.param([Example(0, ("a",), 2)], id="label"),
        pytest.param([Example(0, ("a",), -1)], id="negative-label"),
    ],
)
def test_the_examples_must_fit(tmp_path: Path, examples: list[Example]) -> None:
    with open_store(tmp_path) as store, pytest.raises(InputError):
        evaluate(systems(), SwapAttack(), examples, store, store.manifests[0])


def test_keeping_the_answer_is_what_some_attacks_are_after(tmp_path: Path) -> None:
    """A text reduced to nothing that still gets its class: the model was fooled."""

    def reduce(fields: Fields) -> Attempt:
        return Attempt((fields[0].split()[-1],), 3)

    for text, expected in (("it is witty", FOOLED), ("a witty film", HELD)):
        attack = FunctionAttack(reduce, goal="keep")
        found = run_one(tmp_path / expected, attack, text=text, label=1)
        assert found.outcome == expected
    # "film" alone tips to negative: the claim was false, which does not count as held
    assert (found.unverified, found.held) == (True, False)


OTHER = "lookup(words=0)"


def test_several_defences_and_controls_in_one_cell(tmp_path: Path) -> None:
    controls = tuple(f"random-prefix(rms=0.2, seed={seed})" for seed in range(3))
    found = [
        *systems()[:2],
        System("defense", LexiconClassifier(OTHER)),
        *(System("control", LexiconClassifier(spec, {"okay": 2})) for spec in controls),
    ]
    changes = {"defenses": (DEFENSE, OTHER), "controls": {DEFENSE: controls}}
    with open_store(tmp_path, protocols=("direct",), **changes) as store:
        cell = store.manifests[0]
        evaluate(found, SwapAttack(), EXAMPLES, store, cell)
        assert len(store) == cell.total == 6 * 6
        assert set(store.items("probe")) == {
            cell.probe_key(spec) for spec in ("none", DEFENSE, OTHER)
        }
        # what a check found is about the texts
        other = dataclasses.replace(cell, test_fingerprint="beef")
        assert other.probe_key("none") != cell.probe_key("none")
        (results,) = Results.read(store)
    rows = [(row.role, row.name, row.seeds, row.control_of) for row in results.summary.rows]
    assert rows == [
        ("undefended", "undefended", 1, None),
        ("defense", "thesaurus", 1, None),
        ("control", "random-prefix", 3, DEFENSE),
        ("defense", "lookup", 1, None),
    ]


class Recording(FunctionAttack):
    """Adversaries from elsewhere for the examples 10 and 11; the attack on 12 failed."""

    sha256 = "ab" * 32
    threat = ThreatModel("none", ("text",), "as recorded", 0)

    def __init__(self) -> None:
        super().__init__(lambda fields: pytest.fail("nothing is attacked"))

    def examples(self, read_label: object) -> list[Example]:
        return EXAMPLES[:3]

    def adversary(self, index: int) -> Fields | None:
        return {10: ("a lovely , clever film",), 11: ("a lovely , warm tale",)}.get(index)


def test_a_recorded_attack_is_shown_to_all_and_queries_nobody(tmp_path: Path) -> None:
    settings = {"recorded": Recording.sha256}
    with open_store(tmp_path, protocols=("replay",), n=3, settings=settings) as store:
        cell = store.manifests[0]
        evaluate(systems(), Recording(), EXAMPLES[:3], store, cell)
        records = store.records()
        assert len(store) == cell.total == 9
        summary = summarize(records, cell)
    assert {r.protocol for r in records} == {"replay"}
    assert {r.queries for r in records} == {0}
    by_system = {r.defense: [] for r in records}
    for r in records:
        by_system[r.defense].append(r.outcome)
    # the second adversary does not fool the undefended; it is shown to the others all the same
    assert by_system["none"] == [FOOLED, HELD, HELD]
    assert by_system[DEFENSE] == [HELD, HELD, HELD]
    assert [r.adversarial for r in records if r.defense == DEFENSE] == [
        ("a lovely , clever film",),
        ("a lovely , warm tale",),
        None,
    ]
    assert not any(r.unverified for r in records)
    assert summary.row("none", "replay").robust_accuracy.value == pytest.approx(2 / 3)
    assert summary.row(DEFENSE, "replay").p_value_undefended == 1.0


class Universal(FunctionAttack):
    """Finds the word that tips most training texts, once; then puts it before every text."""

    def __init__(self, words: Sequence[str] = ("dull", "tired"), fails: bool = False) -> None:
        super().__init__(lambda fields: pytest.fail("must be fitted first"))
        self.words = words
        self.fails = fails
        self.fitted_on: list[tuple[str, int, int]] = []

    def fit(self, victim: CountingVictim, examples: Sequence[Example], seed: int) -> str:
        if self.fails:
            raise ValueError("no gradient anywhere")
        self.fitted_on.append((victim._classifier.defense.spec, len(examples), seed))

        def wrong(word: str) -> int:
            texts = [(f"{word} {e.fields[0]}",) for e in examples]
            return int((victim.logits(texts).argmax(1) != [e.label for e in examples]).sum())

        return json.dumps({"word": max(self.words, key=wrong)})

    def fitted(self, state: str) -> FunctionAttack:
        word = json.loads(state)["word"]
        return FunctionAttack(lambda fields: Attempt((f"{word} {fields[0]}",), 1))


TRAINING = [Example(i, (text,), 1) for i, text in enumerate(("fine", "witty", "warm", "lovely"))]


@pytest.mark.parametrize(
    ("protocol", "attacked"), [("replay", ["none"]), ("direct", ["none", DEFENSE, CONTROL])]
)
def test_one_change_for_all_texts_is_looked_for_once(
    tmp_path: Path, protocol: str, attacked: list[str]
) -> None:
    def outcome(attack: Universal) -> list[Record]:
        with open_store(tmp_path, protocols=(protocol,)) as store:
            cell = store.manifests[0]
            evaluate(systems(), attack, EXAMPLES, store, cell, training=lambda: TRAINING)
            states = store.items("state")
            assert set(states) == {cell.state_key(spec) for spec in attacked}
            state = states[cell.state_key("none")]
            assert json.loads(state["state"]) == {"word": "dull"}
            assert (state["queries"], state["forward_passes"]) == (8, 8.0)
            return store.records()

    first, again = Universal(), Universal()
    records = outcome(first)
    assert [spec for spec, _, _ in first.fitted_on] == attacked
    assert {number for _, number, _ in first.fitted_on} == {4}
    assert len({seed for _, _, seed in first.fitted_on}) == len(attacked)
    assert all(r.adversarial[0].startswith("dull ") for r in records if r.adversarial)
    assert outcome(again) == records
    assert again.fitted_on == []


def test_a_search_that_crashed_is_an_error_at_every_example(tmp_path: Path) -> None:
    with open_store(tmp_path, protocols=("direct",)) as store:
        evaluate(systems(), Universal(fails=True), EXAMPLES, store, store.manifests[0])
        records = store.records()
    attacked = [r for r in records if r.outcome != WRONG]
    assert {r.outcome for r in attacked} == {"error"}
    assert all("ValueError: no gradient anywhere" in r.message for r in attacked)


def test_a_record_is_announced_before_it_is_made() -> None:
    cell = manifest(protocols=("direct",))
    events = list(attack_example(systems(), SwapAttack(), EXAMPLES[0], cell, lambda key: None))
    assert [type(event) for event in events] == [Started, Record] * 3
    for started, made in zip(events[::2], events[1::2], strict=True):
        assert isinstance(started, Started)
        assert isinstance(made, Record)
        blank = started.record
        assert (blank.key, blank.role, blank.original) == (made.key, made.role, made.original)
        assert (blank.outcome, blank.queries, blank.forward_passes) == ("error", 0, 0.0)


def test_what_cannot_be_made_is_left_out() -> None:
    cell = manifest()
    left_out = cell.key(DEFENSE, "direct", 10)
    events = attack_example(
        systems(), SwapAttack(), EXAMPLES[0], cell, lambda key: None, leave_out={left_out}
    )
    made = [event.key for event in events if isinstance(event, Record)]
    assert len(made) == 4
    assert left_out not in made
