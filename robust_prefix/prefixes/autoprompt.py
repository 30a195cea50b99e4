"""AutoPrompt (Shin et al., EMNLP 2020, "AutoPrompt: Eliciting Knowledge from Language Models with
Automatically Generated Prompts").

In each step one word is exchanged. Which words are worth trying is estimated to first order, as in
HotFlip (Ebrahimi et al., ACL 2018): the loss changes by ``(e_w - e_now) . g`` with ``g`` the
gradient at the word's embedding, a mean over a batch (equation 2). The candidates are then measured
on another batch, and the best is kept (section 2.2).

Deviations: the words are whole and readable and survive being written, so that the result is a
text and not only a row of tokens; it starts from words drawn at random and not from masks, which
decoders do not have; the word that is there stays where no candidate has a lower loss; and the loss
is that over the label words alone, as the answer is chosen among these.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch

from robust_prefix.configs import AutoPromptConfig
from robust_prefix.prefixes.hard_prompt import Wording, Words
from robust_prefix.prefixes.searched import Questions, Score, Searched


class AutoPrompt(Searched[AutoPromptConfig]):
    """Words found by the gradient at their embeddings."""

    name = "autoprompt"
    paper = "Shin et al. 2020"
    learns = "words before the prompt, by the gradient at their embeddings"
    formula = "length"
    config_type = AutoPromptConfig

    @property
    def steps(self) -> int:
        """See ``Searched``."""
        return self.config.steps

    def step(
        self, wording: Wording, population: Sequence[Words], questions: Questions, random: Random
    ) -> tuple[list[Words], Score]:
        """See ``Searched``."""
        [best] = population
        place = random.randrange(len(best))
        gradient = questions.gradient(best)[place]
        vocabulary = torch.tensor(wording.vocabulary, device=gradient.device)
        # The term of the word that is there is the same for all.
        change = wording.backbone.embeddings[vocabulary].float() @ gradient
        score = questions.score(best)
        tried = 0
        for index in change.argsort().tolist():
            words = (*best[:place], wording.vocabulary[index], *best[place + 1 :])
            if words == population[0] or not wording.survives(words):
                continue
            found = questions.score(words)
            if found.loss < score.loss:
                best, score = words, found
            tried += 1
            if tried == self.config.candidates:
                break
        return [best], score
