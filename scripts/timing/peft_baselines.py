"""The same classifier as one would build it from Hugging Face PEFT and TextAttack.

PEFT's ``PrefixTuning`` stores what ours stores, keys and values of every layer, so a trained prefix
is carried over number by number and the answers agree. The sequence classifier's head, which PEFT
would leave to be trained, is given the rows of the label words: then it computes their logits.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from robust_prefix.backbones import Backbone
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.prefixes.peft import PeftCheckpoint


def to_peft(prefix: Tensor) -> Tensor:
    """Ours ``(layers, 2, kv_heads, length, head_dim)`` as PEFT's ``(length, everything else)``."""
    return prefix.permute(3, 0, 1, 2, 4).flatten(1)


def prefix_weight(peft_model: Any) -> Tensor:
    """The parameter that holds the prefix: float32 ``(length, layers * 2 * kv_heads * head_dim)``.

    ``load_prefix`` writes it and ``prefix_of`` reads it.
    """
    weight: Tensor = peft_model.prompt_encoder[peft_model.active_adapter].embedding.weight
    return weight


def load_prefix(peft_model: Any, prefix: Tensor) -> None:
    """Put ours into PEFT's prefix encoder."""
    with torch.no_grad():
        prefix_weight(peft_model).copy_(to_peft(prefix))


def prefix_of(peft_model: Any, backbone: Backbone) -> Prefix:
    """What PEFT trained, as ours."""
    weight = prefix_weight(peft_model).detach().float().cpu()
    return PeftCheckpoint("prefix-tuning", backbone.name, weight).prefix(backbone)


def causal_lm(backbone: Backbone, length: int) -> Any:
    """PEFT's prefix-tuning of the very same language model, its prefix drawn by PEFT."""
    from peft import PrefixTuningConfig, get_peft_model

    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length)
    return get_peft_model(backbone.model, config).eval()


def sequence_classifier(backbone: Backbone, length: int, label_tokens: Tensor) -> Any:
    """PEFT's prefix-tuning of a sequence classifier over the very same layers.

    Args:
        label_tokens: token ids ``(classes,)``, whose rows of the language model's head become the
            classifier's.
    """
    from peft import PrefixTuningConfig, get_peft_model

    config = copy.deepcopy(backbone.model.config)
    config.num_labels = len(label_tokens)
    config.pad_token_id = backbone.tokenizer.pad_token_id
    with torch.device("meta"):  # no weights of its own: layers and head are put in
        model = AutoModelForSequenceClassification.from_config(config)
    setattr(model, model.base_model_prefix, backbone.model.get_decoder())
    rows = backbone.model.get_output_embeddings().weight[label_tokens].detach().clone()
    model.score.weight = torch.nn.Parameter(rows)
    settings = PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=length)
    return get_peft_model(model, settings).eval()


class Victim(PreTrainedModel):
    """A PEFT model where TextAttack insists on a ``PreTrainedModel``."""

    _supports_sdpa = True  # as the layers inside

    def __init__(self, peft_model: Any) -> None:
        super().__init__(peft_model.get_base_model().config)
        self.peft_model = peft_model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        """The classifier's output; ``.logits`` are ``(batch, classes)``."""
        return self.peft_model(input_ids=input_ids, attention_mask=attention_mask)


def classifier_of(model: PrefixModel) -> Victim:
    """``model`` in PEFT's form: the same prefix, the same scores."""
    peft_model = sequence_classifier(
        model.backbone, model.prefix.length, model.prompter.label_tokens
    )
    load_prefix(peft_model, model.prefix.tensor)
    return Victim(peft_model).eval()


def plain_tokenizer(backbone: Backbone) -> Any:
    """The tokenizer set so that PEFT's model reads the prompts that ours reads.

    On the right, since the positions of a causal model count from the first column, padding
    included; and without a token put before the text.
    """
    from tokenizers.processors import Sequence as Processors

    tokenizer = copy.deepcopy(backbone.tokenizer)
    tokenizer.padding_side = "right"
    tokenizer.backend_tokenizer.post_processor = Processors([])
    return tokenizer


def shipped_wrapper(model: PrefixModel, victim: Victim) -> Any:
    """TextAttack's ``HuggingFaceModelWrapper`` as it ships: each text is padded to the maximum.

    TextAttack must be importable; see ``attacks.textattack_import``.
    """
    from textattack.models.wrappers import HuggingFaceModelWrapper

    return HuggingFaceModelWrapper(victim, plain_tokenizer(model.backbone))


def longest_wrapper(model: PrefixModel, victim: Victim) -> Any:
    """The same wrapper but for one line: texts are padded to the longest of their batch."""
    from textattack.models.wrappers import HuggingFaceModelWrapper

    class LongestWrapper(HuggingFaceModelWrapper):
        def __call__(self, text_input_list: list[str]) -> Tensor:
            inputs = self.tokenizer(
                text_input_list,
                padding="longest",
                truncation=True,
                max_length=512,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.no_grad():
                scores: Tensor = self.model(**inputs).logits
            return scores

    return LongestWrapper(victim, plain_tokenizer(model.backbone))
