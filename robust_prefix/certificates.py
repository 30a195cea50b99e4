"""How many words of a text may change before an answer made of masked copies does.

Two certificates, both for substitutions: a word, as white space divides them, is exchanged for any
other, of any letters, and the number of words stays. Neither covers words that are added, taken
out, split or joined.

*Of the vote itself.* The masks are fixed by the number of words. A copy that shows none of the
changed words is the same text as before, so it says the same; of the copies that show one, nothing
is assumed. This is Levine & Feizi, NeurIPS 2020, "(De)Randomized Smoothing for Certifiable Defense
against Patch Attacks", with sets of words for patches; see :func:`vote_radius`. It holds for the
answer that the deployed classifier gives, without chance in it.

*Of the smoothed classifier.* It answers what most of *all* masks of one size answer: Levine &
Feizi, AAAI 2020, "Robustness Certificates for Sparse Adversarial Attacks by Randomized Ablation",
and Zeng et al., Computational Linguistics 2023, for text; see :func:`smoothed_radius`. Nobody can
ask that classifier, so its answer is estimated from a sample and holds at a stated confidence; a
deployed vote of few copies is another classifier and is not covered.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from robust_prefix.masks import Masks

_NODES = 2000  # of branch and bound: a limit in time would make a certificate depend on the machine
_ROUNDING = 1e-6  # of the solver


def vote_radius(ballots: NDArray[np.float64], masks: Masks, label: int, slack: float = 0.0) -> int:
    """How many words may change before the copies' answer can be another than ``label``.

    Let copy ``i`` give ``b_i(c)`` in [0, 1] to class ``c``. Against class ``c`` the label leads by
    ``sum_i b_i(y) - b_i(c)``. Where an attacker decides what copy ``i`` says, that falls by
    ``w_i = 1 + b_i(y) - b_i(c)`` at most, from what it is to -1: by 2 for a vote for the label, by
    nothing for a vote that is ``c``'s already. So after changes of the words ``D`` the label still
    leads if the ``w_i`` of the copies that show a word of ``D`` add up to less than the lead, and
    it is safe at ``d`` words if that holds for the ``D`` of ``d`` words that reach the most.
    That greatest reach is bounded from above, see :func:`reach`.

    Args:
        ballots: one vote a copy, or its probabilities ``(copies, classes)``.
        masks: which words each copy shows ``(copies, words)``.
        slack: taken off the lead beforehand.

    Returns:
        The greatest such number; 0 also where the label does not lead.
    """
    words = masks.shape[1]
    others = [c for c in range(ballots.shape[1]) if c != label]
    leads = {c: float((ballots[:, label] - ballots[:, c]).sum()) - slack for c in others}
    weights = {c: 1 + ballots[:, label] - ballots[:, c] for c in others}
    radius = 0
    while radius < words and all(
        reach(weights[c], masks, radius + 1, leads[c]) < leads[c] - _ROUNDING for c in others
    ):
        radius += 1
    return radius


def reach(weights: NDArray[np.float64], masks: Masks, changes: int, enough: float = 0.0) -> float:
    """An upper bound of the weight of the copies that show any of ``changes`` words, at worst.

    First the sum of what the ``changes`` heaviest words reach each for itself; that is exact for
    one word, and where no copy shows words of two kinds. Where it is no less than ``enough``, the
    maximum coverage itself, as a mixed integer program with a variable a word and one a copy; if
    that is not solved within a number of nodes, the bound reached by then.

    Args:
        weights: of each copy, none below 0 ``(copies,)``.
        enough: a bound below this need not be made any better.
    """
    # Words that the same copies show reach no more together than one of them.
    kinds = np.unique(masks, axis=1)
    each = np.sort(weights @ kinds)[::-1]
    bound = min(float(each[:changes].sum()), float(weights.sum()))
    if bound < enough - _ROUNDING or changes == 1 or (kinds.sum(1) <= 1).all():
        return bound
    return min(bound, _coverage(weights, kinds, changes))


def _coverage(weights: NDArray[np.float64], masks: Masks, changes: int) -> float:
    """An upper bound of ``max sum_i w_i y_i`` over ``x`` in {0, 1}^words, ``y`` in [0, 1]^copies
    with ``y_i <= sum of x over the words of copy i`` and ``sum x <= changes``."""
    copies, words = masks.shape
    shown = optimize.LinearConstraint(np.hstack([-masks.astype(float), np.eye(copies)]), ub=0)
    few = optimize.LinearConstraint(np.r_[np.ones(words), np.zeros(copies)][None], ub=changes)
    found = optimize.milp(
        -np.r_[np.zeros(words), weights],
        integrality=np.r_[np.ones(words), np.zeros(copies)],
        bounds=optimize.Bounds(0, 1),
        constraints=[shown, few],
        options={"node_limit": _NODES},
    )
    bound = found.mip_dual_bound
    return float(weights.sum()) if bound is None else -float(bound)


def touched_share(words: int, visible: int, changes: int) -> Fraction:
    """The share of all masks that show one of ``changes`` words.

    Of the ``C(n, v)`` masks that show ``v`` of ``n`` words, those that show none of ``d`` words
    take all ``v`` from the other ``n - d``: ``Delta = 1 - C(n - d, v) / C(n, v)``, the same
    whichever the ``d`` words are.
    """
    return 1 - Fraction(comb(words - changes, visible), comb(words, visible))


def smoothed_radius(share: float | Fraction, words: int, visible: int) -> int | None:
    """How many words may change before most masks can answer otherwise.

    Let ``p`` be the share of all masks whose copy is given the label. After changes of ``d``
    words the copies under all but a share ``Delta`` of the masks are the same texts, so
    ``p' >= p - Delta``. If that is more than one half, no other class can have as much.

    (Zeng et al. subtract ``beta * Delta``, ``beta`` being how often the label is answered by the
    masks that show a changed word. The true ``beta`` depends on which words change; they estimate
    it, so it is left out of what is to be a bound.)

    Args:
        share: ``p``, or a lower bound of it.
        visible: words that a mask shows.

    Returns:
        The greatest number of words; None where ``share`` is no majority to begin with.
    """
    if not share > Fraction(1, 2):
        return None
    radius = 0
    while radius < words and Fraction(share) - touched_share(words, visible, radius + 1) > Fraction(
        1, 2
    ):
        radius += 1
    return radius


def lower_bound(successes: int, trials: int, confidence: float) -> float:
    """The one-sided lower bound of Clopper & Pearson (Biometrika 1934) of a proportion.

    The label is told apart from all other classes together, so one bound is all there is to it
    and nothing has to be shared out among the classes.
    """
    test = stats.binomtest(successes, trials, alternative="greater")
    return float(test.proportion_ci(confidence, method="exact").low)
