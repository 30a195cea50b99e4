"""What each flag means and what to do about it, by the words that it begins with."""

from __future__ import annotations

MEANINGS = {
    # how a row came about: flags.py
    "dynamic": "It adapts itself to each text, so an adversary made for another model says little "
    "about it. Only the direct attack counts.",
    "small n": "The intervals are wide; a difference of a few points means nothing.",
    "incomplete": "The run stopped before its end; the same command resumes it.",
    "not evaluated": "This attack could not be carried out on it; the reason is told beside it.",
    "replay better than direct": "It breaks texts made for another model, not an attacker who can "
    "ask it. Read the direct row.",
    "hides its scores: direct": "A bound keeps from the attack what its changes do to the "
    "model, so it is misled, not beaten. Read the adaptive row.",
    "hides its scores, and": "An attacker with the weights sees more than this attack did. Attack "
    "it at the protocol adaptive, too, or worst.",
    "direct weaker than replay": "The attack finds less when it asks this system than what was "
    "found on another: it is misled, not beaten. Read the worst case and attack it otherwise.",
    "verification failed": "The attack claimed success, but the model gave another answer when "
    "asked about the reported text once more. Not counted as held.",
    "many crashed": "What crashes may be what is hard. Mend the cause, found in the run's "
    "database, and run again.",
    "never tried": "The attack found nothing to change there, so nothing was shown about these "
    "texts. Add an attack with other edits.",
    "query budget spent": "The attack was stopped, not beaten. See how accuracy falls with the "
    "number of queries, and raise the budget.",
    "no better than its random control": "What it gains, something random of the same "
    "size gains too: the gain is not due to what was tuned or fitted.",
    "worse than its random control": "Something random of the same size holds more often.",
    "no random control": "Without it a gain may be no more than that of something random.",
    "better than undefended on clean text": "A defence seldom repairs the model's own errors; one "
    "that knows the labels does. Compare them on texts that it cannot have seen.",
    "substitute for": "The attack ran with another word list or encoder than its paper's.",
    "randomized": "Repeat the run with other seeds; an attacker may simply ask again.",
    # checks of a system: probe_flags.py
    "batch-dependent": "What a text is answered hangs on who asks beside it, so an attack that "
    "asks in batches is misled, and so is its result. Evaluate with one text a batch.",
    "undeclared optimisation": "Backward passes ran while it answered, though the defence does "
    "not call itself dynamic. Declare it, and let only the direct attack count.",
    "coarse scores": "Different texts get the same score, so an attack that follows scores has "
    "little to follow. Attack it by its labels alone.",
    "saturated scores": "A probability of exactly 1 stays the same whatever an attack tries. "
    "Attack the logits, or a surrogate.",
    "no gradients": "Gradient attacks cannot be run on it, which is no robustness. Attack it by "
    "scores, and by gradients through an approximation.",
    "zero gradients": "Gradient attacks have nothing to follow, which is no robustness. Attack it "
    "by scores, and by gradients through an approximation.",
    "gradients not finite": "Gradient attacks go astray on it, which is no robustness. Attack it "
    "by scores.",
    "memory hardly checked": "A lookup of the evaluated texts may go unseen. Keep texts of the "
    "same kind for comparison: evaluate fewer than there are, or give the task a dev split.",
    "memory": "It seems to know the texts it is evaluated on, so its accuracy says nothing about "
    "new ones. Look what the defence was fitted on; evaluate on texts it cannot have seen.",
    "check failed": "The check crashed, so the doubt it was to settle stays. Mend what the "
    "message says and run again.",
    "not checked": "Nothing is known about randomness, batches, gradients or memory of this "
    "system. Run it again with this version.",
    # one attack beside another: matrix_flags.py
    "masked": "An attack that sees less of the system finds more, as it does not on the "
    "undefended model: what the stronger attack follows leads nowhere. Trust the lower number.",
}
"""The first that fits counts."""

CRASHED = (
    "A crashed example counts as not held and is left out of the success rate; its traceback is "
    "in the run's database."
)


def meaning(flag: str) -> str:
    """A sentence of meaning and what to do; empty for a flag that is not known."""
    for beginning, words in MEANINGS.items():
        if flag.startswith(beginning):
            return words
    return CRASHED if flag.split()[-1] in ("error", "errors") else ""
