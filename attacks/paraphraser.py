"""Sentences said in other words, by an instruction-tuned language model.

The usual paraphrasers of the literature are downloads. In their place stands the model of the
resource ``language-model``, which answers a chat: a few examples of paraphrases, then the text.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from attacks.resources.base import Found
from robust_prefix.backbones import Backbone, load_backbone
from robust_prefix.errors import ResourceError

_TASK = (
    "You rewrite sentences. You keep their meaning and change their words and their structure. "
    "You answer with one sentence only."
)
_ASK = "Paraphrase this: "
# Of different kinds, so that the model copies none of them.
_EXAMPLES = (
    (
        "The company said on Monday that its profits rose by a fifth last year.",
        "Last year's profits were up twenty percent, the company announced on Monday.",
    ),
    (
        "A man in a red shirt is walking his dog along the beach.",
        "Someone wearing a red shirt walks a dog by the sea.",
    ),
    (
        "The story is thin and most of the jokes fall flat.",
        "Few of the jokes work, and there is hardly a plot.",
    ),
)
_TOP_K = 50  # tokens that a draw chooses from; to sort all of them costs a fifth of the time
_SPARE = 8  # tokens that a paraphrase may have beyond a quarter more than its text


class Paraphraser:
    """Samples of what a model answers when it is asked for a paraphrase.

    Args:
        backbone: a model with a chat template.

    Raises:
        ResourceError: there is no such template.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._model = backbone.model
        self._tokenizer = backbone.tokenizer
        self._max_positions = backbone.max_positions
        if not self._tokenizer.chat_template:
            raise ResourceError(
                f"expected a model with a chat template, got {backbone.name!r}; "
                "give an instruction-tuned one"
            )
        self._stops = _stops(self._tokenizer)

    def sample(
        self, text: str, count: int, seed: int, temperature: float = 0.7, top_p: float = 1.0
    ) -> list[str]:
        """Answers in the order drawn; some may be equal, empty or no paraphrase.

        The same arguments give the same answers whatever was drawn before, and the global random
        generators are as before afterwards. A text too long for the model gets none.

        Args:
            text: what to paraphrase.
            count: how many answers, drawn side by side.
            seed: of the draws.
            temperature: 0 takes the likeliest answer, that one alone.
            top_p: draws come from the likeliest tokens with this much probability together.
        """
        prompt = self._prompt(text)
        room = len(self._tokenizer(text, add_special_tokens=False).input_ids) * 5 // 4 + _SPARE
        if prompt.shape[1] + room > self._max_positions:
            return []
        drawn: dict[str, Any] = {
            "do_sample": True,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": _TOP_K,
        }
        if not temperature:
            count, drawn = 1, {"do_sample": False}
        with (
            torch.random.fork_rng(devices=range(torch.cuda.device_count())),
            torch.inference_mode(),
        ):
            torch.manual_seed(seed % 2**63)
            # The prompt is read once and its keys and values are shared by all answers.
            cache = self._model(prompt[:, :-1], use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(count)
            prompts = prompt.repeat(count, 1)
            answers = self._model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                past_key_values=cache,
                max_new_tokens=room,
                eos_token_id=self._stops,
                pad_token_id=self._stops[0],
                **drawn,
            )
        new = answers[:, prompt.shape[1] :]
        return [
            " ".join(answer.split())
            for answer in self._tokenizer.batch_decode(new, skip_special_tokens=True)
        ]

    def _prompt(self, text: str) -> torch.Tensor:
        """The chat up to where the answer begins: token ids ``(1, tokens)``."""
        turns = [{"role": "system", "content": _TASK}]
        for before, after in _EXAMPLES:
            turns.append({"role": "user", "content": _ASK + before})
            turns.append({"role": "assistant", "content": after})
        turns.append({"role": "user", "content": _ASK + text})
        written = self._tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        encoded = self._tokenizer(written, add_special_tokens=False, return_tensors="pt")
        ids: torch.Tensor = encoded.input_ids.to(self._model.device)
        return ids


def _stops(tokenizer: Any) -> list[int]:
    """The tokens that end an answer: what the template puts after one, and the end of a text."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    written: str = tokenizer.apply_chat_template(turns, tokenize=False)
    after = tokenizer(written.rpartition("!")[2], add_special_tokens=False).input_ids
    return list(dict.fromkeys([*after[:1], tokenizer.eos_token_id]))


@lru_cache(maxsize=1)
def load_paraphraser(found: Found) -> Paraphraser:
    """The paraphraser of a found language model, loaded once a process."""
    return Paraphraser(load_backbone(found.label, dtype="float32"))
