"""What an adversary costs its reader, against figures worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from evaluation_fakes import record

from robust_prefix.evaluation.diff import words_changed
from robust_prefix.evaluation.quality import (
    Quality,
    Scorers,
    measure,
    measure_quality,
    pair_key,
    read_qualities,
    summarize_quality,
    unmeasured,
)


class CountingEncoder:
    """Vectors of two letters' counts: texts of the same letters are alike."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        self.calls.append(list(texts))
        rows = torch.tensor([[t.count("a"), t.count("b")] for t in texts], dtype=torch.float32)
        return torch.nn.functional.normalize(rows, dim=1)


class LetterModel:
    """Each letter is a token of two nats; the first has no prediction."""

    def log_likelihood(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        return [(-2.0 * max(0, len(t) - 1), max(0, len(t) - 1)) for t in texts]


class MemoryStore:
    """The side values of a store."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.puts = 0

    def put(self, kind: str, key: str, value: object) -> None:
        assert kind == "quality"
        self.puts += 1
        self.values[key] = value

    def items(self, kind: str) -> dict[str, object]:
        assert kind == "quality"
        return dict(self.values)


@pytest.mark.parametrize(
    ("original", "adversarial", "count"),
    [
        pytest.param("a fine film", "a fine film", 0, id="same"),
        pytest.param("a fine film", "a okay film", 1, id="replaced"),
        pytest.param("a b c", "a x y c", 2, id="one-by-two"),
        pytest.param("a x y c", "a b c", 2, id="two-by-one"),
        pytest.param("so very dull", "so dull", 1, id="removed"),
        pytest.param("a film", "zoning tapping fiennes a film", 3, id="trigger"),
        pytest.param("a  film", "a film", 0, id="spaces"),
        pytest.param("a b c", "x y z", 3, id="all"),
        pytest.param("", "new", 1, id="from-nothing"),
    ],
)
def test_words_changed(original: str, adversarial: str, count: int) -> None:
    assert words_changed(original, adversarial) == count


def test_a_pair_is_measured() -> None:
    found = measure(("aab aa b",), ("aab bbb b",), Scorers(LetterModel(), CountingEncoder()))
    assert (found.words, found.words_changed) == (3, 1)
    assert found.share_changed == pytest.approx(1 / 3)
    # (4, 2) and (2, 5)
    assert found.similarity == round((8 + 10) / math.sqrt(20 * 29), 4)
    assert found.perplexity_original == pytest.approx(math.exp(7 * 2 / 3), abs=1e-4)
    assert found.perplexity_adversarial == pytest.approx(math.exp(8 * 2 / 3), abs=1e-4)
    assert found.perplexity_ratio == pytest.approx(math.exp(2 / 3), rel=1e-5)


def test_only_changed_columns_count() -> None:
    scorers = Scorers(LetterModel(), CountingEncoder())
    pair = measure(("a long premise b", "ab a"), ("a long premise b", "ab b"), scorers)
    assert pair == measure(("ab a",), ("ab b",), scorers)
    assert measure(("a", "b"), ("a", "b"), scorers).words == 2


def test_what_has_no_scorer_stays_empty() -> None:
    found = measure(("a b",), ("a c",), Scorers())
    assert found == Quality(words=2, words_changed=1)
    assert found.perplexity_ratio is None


def test_a_text_with_nothing_to_predict_has_no_perplexity() -> None:
    found = measure(("a",), ("bb",), Scorers(LetterModel()))
    assert (found.perplexity_original, found.perplexity_ratio) == (None, None)
    assert found.perplexity_adversarial == pytest.approx(math.e**2, abs=1e-4)


def test_a_monstrous_perplexity_is_still_a_number() -> None:
    found = measure(("ab ab",), ("a" * 2000,), Scorers(LetterModel()))
    assert found.perplexity_adversarial == pytest.approx(math.exp(100), rel=1e-9)


def test_a_pair_is_measured_once_whoever_shows_it() -> None:
    store, encoder = MemoryStore(), CountingEncoder()
    shown = [
        record(),
        record(protocol="replay", defense="thesaurus", outcome="failed"),
        record(example=2, adversarial=("a fine flm",)),
        record(example=3, adversarial=None),
        record(example=4, prediction_adversarial=None, outcome="error"),
    ]
    pairs = unmeasured(store, shown, similarity=True)  # type: ignore[arg-type]
    assert set(pairs) == {pair_key(shown[0]), pair_key(shown[2])}
    steps: list[int] = []
    measure_quality(store, pairs, Scorers(LetterModel(), encoder), steps.append)  # type: ignore[arg-type]
    assert steps == [1, 2]
    assert set(store.values) == set(pairs)
    assert all(len(call) == 1 for call in encoder.calls)  # no text depends on its company
    assert unmeasured(store, shown, similarity=True) == {}  # type: ignore[arg-type]


def test_another_model_measures_anew() -> None:
    assert pair_key(record()) != pair_key(record(model="other"))
    assert pair_key(record()) == pair_key(record(defense="thesaurus", example=9))


def test_an_encoder_installed_later_completes_what_is_there() -> None:
    store = MemoryStore()
    pairs = unmeasured(store, [record()], similarity=False)  # type: ignore[arg-type]
    measure_quality(store, pairs, Scorers(LetterModel()))  # type: ignore[arg-type]
    (half,) = read_qualities(store).values()  # type: ignore[arg-type]
    assert unmeasured(store, [record()], similarity=False) == {}  # type: ignore[arg-type]
    assert unmeasured(store, [record()], similarity=True) == pairs  # type: ignore[arg-type]
    measure_quality(store, pairs, Scorers(LetterModel(), CountingEncoder()))  # type: ignore[arg-type]
    (whole,) = read_qualities(store).values()  # type: ignore[arg-type]
    assert (half.similarity, half.perplexity_original) == (None, whole.perplexity_original)
    assert whole.similarity is not None


def test_means_are_over_successful_adversaries() -> None:
    fooled = [record(example=i, adversarial=(f"a okay film {i}",)) for i in range(3)]
    held = record(example=9, adversarial=("a tale",), outcome="failed")
    qualities = {
        pair_key(fooled[0]): Quality(10, 1, 0.9, 100.0, 200.0),
        pair_key(fooled[1]): Quality(10, 3, None, 100.0, 50.0),
        pair_key(held): Quality(10, 10, 0.0, 1.0, 1000.0),
    }  # the third was never measured
    found = summarize_quality([*fooled, held], qualities)
    assert found.words_changed is not None
    assert found.words_changed.value == pytest.approx(0.2)
    assert found.words_changed.low == pytest.approx(0.1)
    assert found.words_changed.high == pytest.approx(0.3)
    assert found.similarity is not None
    assert found.similarity.value == 0.9
    assert found.perplexity_ratio is not None
    assert found.perplexity_ratio.value == pytest.approx(1.0)  # doubled and halved
    assert found.perplexity_ratio.interval == pytest.approx([0.5, 2.0])
    nothing = summarize_quality([held], qualities)
    assert (nothing.words_changed, nothing.similarity, nothing.perplexity_ratio) == (None,) * 3
