"""Searches of our own where a class more makes success and score two things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from attacks.textattack_import import import_textattack


@pytest.fixture(params=["greedy", "ordered", "importance"])
def search(request: pytest.FixtureRequest, data_dir: Path) -> Any:
    import_textattack(data_dir)
    from attacks.parts.greedy_search import GreedySearch
    from attacks.parts.importance_search import ImportanceSearch
    from attacks.parts.ordered_search import OrderedSearch

    found = {"greedy": GreedySearch, "ordered": OrderedSearch, "importance": ImportanceSearch}
    return found[request.param]()


class Text(str):
    """What TextAttack would call attacked, as far as searches look."""

    attack_attrs: ClassVar[dict[str, float]] = {}


@dataclass
class Result:
    """What TextAttack knows of a text: of three classes the true one may be less likely than
    before and still the likeliest."""

    attacked_text: Any
    score: float  # 1 less the probability of the true class
    goal_status: int = 1  # TextAttack's "searching"


START = Result(Text("start"), 0.1)
FOUND = {
    "likelier": Result(Text("likelier"), 0.64),  # .36 .34 .30
    "wrong": Result(Text("wrong"), 0.55, 0),  # .45 .50 .05, "succeeded"
}


@pytest.mark.parametrize("order", [("likelier", "wrong"), ("wrong", "likelier")])
def test_a_success_comes_before_a_higher_score(search: Any, order: tuple[str, ...]) -> None:
    search.get_indices_to_order = lambda text: (1, [0])
    search._get_index_order = lambda text: ([0], False)
    search.get_transformations = lambda text, **_: list(order) if text == "start" else []
    search.get_goal_results = lambda texts: ([FOUND[text] for text in texts], False)
    assert search.perform_search(START) is FOUND["wrong"]


@pytest.mark.parametrize("search", ["ordered"], indirect=True)
def test_the_second_pass_counts_where_it_alone_succeeds(search: Any) -> None:
    search.get_indices_to_order = lambda text: (2, [0, 1])
    search.get_transformations = lambda text, indices_to_modify, **_: (
        {0: ["likelier"], 1: ["wrong"]}[indices_to_modify[0]] if text == "start" else []
    )
    search.get_goal_results = lambda texts: ([FOUND[text] for text in texts], False)
    assert search.perform_search(START) is FOUND["wrong"]
