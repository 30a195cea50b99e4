"""Tiny encoders and encoder-decoders with their tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from robust_prefix.backbones import EncoderBackbone, Seq2SeqBackbone
from robust_prefix.backbones.seq2seq import SEQ2SEQ

from .conftest import NEGATIVE, POSITIVE, SUBJECTS

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_WORDS = "the a is and it was this review negative or positive yes maybe no question : that . ? ,"
_SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


@cache
def word_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece in which each word of the small task is one token, and others are letters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*_WORDS.split(), *SUBJECTS, *POSITIVE, *NEGATIVE, "mask", "[", "]"]
    pieces = [*_SPECIAL.values(), *words, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    raw = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=raw, **_SPECIAL)


def _bert(vocab: int) -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(vocab_size=vocab, **_SIZE))


def _roberta(vocab: int) -> PreTrainedModel:
    return RobertaForMaskedLM(RobertaConfig(vocab_size=vocab, pad_token_id=0, **_SIZE))


def _xlm_roberta(vocab: int) -> PreTrainedModel:
    return XLMRobertaForMaskedLM(XLMRobertaConfig(vocab_size=vocab, pad_token_id=0, **_SIZE))


ENCODER_BUILDERS: dict[str, Callable[[int], PreTrainedModel]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
}


def enlarge(model: PreTrainedModel) -> PreTrainedModel:
    """Weights large enough that a model's answers differ between texts."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(5)
    return model


def tiny_encoder(kind: str, words: bool = True, seed: int = 0) -> EncoderBackbone:
    """A random encoder.

    Args:
        words: with a head that predicts masked words.
    """
    torch.manual_seed(seed)
    tokenizer = word_tokenizer()
    model = enlarge(ENCODER_BUILDERS[kind](len(tokenizer)))
    model.config.architectures = [type(model).__name__]
    return EncoderBackbone(model if words else model.base_model, tokenizer, f"tiny-{kind}")


def _t5(vocab: int) -> PreTrainedModel:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocab,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_decoder_layers=3,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=12,
            n_positions=128,
            decoder_start_token_id=0,
            **_TOKENS,
        )
    )


def _bart(vocab: int) -> PreTrainedModel:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=vocab,
            d_model=32,
            encoder_layers=2,
            decoder_layers=3,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=128,
            decoder_start_token_id=3,
            forced_eos_token_id=None,
            bos_token_id=2,
            **_TOKENS,
        )
    )


_TOKENS = {"pad_token_id": 0, "eos_token_id": 3}
SEQ2SEQ_BUILDERS: dict[str, Callable[[int], PreTrainedModel]] = {"t5": _t5, "bart": _bart}


def tiny_seq2seq(kind: str, seed: int = 0) -> Seq2SeqBackbone:
    """A random encoder-decoder of two and three layers."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer()
    model = enlarge(SEQ2SEQ_BUILDERS[kind](len(tokenizer)))
    return SEQ2SEQ[kind](model, tokenizer, f"tiny-{kind}")
