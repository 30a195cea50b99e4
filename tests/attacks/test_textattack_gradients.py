"""The gradients that TextAttack's own parts read, on a victim whose gradient is known by heart."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from attacks.victim import VictimWrapper
from robust_prefix.errors import ConfigError
from robust_prefix.gradients import TokenGradients

from .open_bag import HIDDEN, Build, OpenBag


@pytest.fixture
def wrapper(build: Build) -> VictimWrapper:
    build("deepwordbug")  # imports TextAttack
    wrapped = VictimWrapper()
    wrapped.victim = OpenBag()
    return wrapped


def test_get_grad_has_a_row_for_each_word_of_textattacks(wrapper: VictimWrapper) -> None:
    text = "a good , dull movie 's trip !"
    output = wrapper.get_grad(text)
    [words] = wrapper.tokenize([text], strip_prefix=True)
    assert words == ["a", "good", "dull", "movie", "s", "trip"]
    assert output["gradient"].shape == (len(words), HIDDEN)
    assert output["gradient"].dtype == np.float32
    victim = wrapper.victim
    assert isinstance(victim, OpenBag)
    assert [victim.texts[i] for i in output["ids"]] == ["a", " good", "d", " movie", "s", " trip"]
    # Of the class that the victim answers.
    assert [(label, how) for _, label, how in victim.differentiated] == [(1, "fixed")]
    wrapper.get_grad("bad film")
    assert victim.differentiated[-1][1] == 0


def test_get_grad_of_a_pair_and_of_a_text_that_was_cut(wrapper: VictimWrapper) -> None:
    wrapper.victim = OpenBag(("premise", "hypothesis"), max_tokens=3)
    output = wrapper.get_grad(("good movie", "good trip"))
    assert wrapper.tokenize([("good movie", "good trip")]) == [["good", "movie", "good", "trip"]]
    assert np.abs(output["gradient"]).max(axis=1).tolist()[:3] != [0, 0, 0]
    assert (output["gradient"][3] == 0).all()


def test_textattacks_greedy_search_ranks_by_get_grad(wrapper: VictimWrapper) -> None:
    from textattack.search_methods import GreedyWordSwapWIR
    from textattack.shared import AttackedText

    class Steep(OpenBag):
        """The loss hangs on "movie" more than on the other words, and not at all on "good"."""

        def gradients(self, *arguments: Any) -> list[TokenGradients]:
            found = super().gradients(*arguments)
            for one in found:
                one.gradient[one.tokens.index(self.ids[" movie"])] *= 10
                one.gradient[one.tokens.index(self.ids[" good"])] = 0
            return found

    wrapper.victim = Steep()
    search = GreedyWordSwapWIR(wir_method="gradient")
    search.get_victim_model = lambda: wrapper
    search.get_indices_to_order = lambda text: (4, [0, 1, 2, 3])
    order, is_over = search._get_index_order(AttackedText("the good , movie 's trip"))
    assert order[0] == 2
    assert order[-1] == 1
    assert not is_over


def test_textattacks_gradient_swap_reads_get_grad(wrapper: VictimWrapper) -> None:
    from textattack.models.wrappers import ModelWrapper
    from textattack.shared import AttackedText
    from textattack.transformations.word_swaps import word_swap_gradient_based as shipped

    victim = wrapper.victim
    assert isinstance(victim, OpenBag)

    class Open(VictimWrapper):
        """What the swap asks of its LSTM beside ``get_grad``."""

        pad_token_id = 0

        @property
        def tokenizer(self) -> Open:
            return self

        def convert_id_to_word(self, token: int) -> str:
            return victim.texts[token].strip()

        def get_input_embeddings(self) -> Any:
            return torch.nn.Embedding.from_pretrained(torch.from_numpy(victim.matrix))

    ModelWrapper.register(Open)
    opened = Open()
    opened.victim = victim
    # It accepts TextAttack's LSTM alone.
    with mock.patch.object(shipped, "validate_model_gradient_word_swap_compatibility"):
        swap = shipped.WordSwapGradientBased(opened, top_n=2)
    found = swap._get_replacement_words_by_grad(AttackedText("a good movie"), [1, 2])
    # The steepest descent of the answer given, from the word with the most to lose on.
    assert found == [("negative", 1), ("negative", 1)]


def test_get_grad_of_a_black_box_is_refused(wrapper: VictimWrapper, bag_of_words: Any) -> None:
    wrapper.victim = bag_of_words()
    with pytest.raises(ConfigError, match="expected a victim that gives gradients"):
        wrapper.get_grad("good movie")
