"""The frozen language model: load it, tokenise, run a range of layers, score the label words."""

from robust_prefix.backbones.adapted import ACTIVATIONS, Adapters
from robust_prefix.backbones.base import Backbone, TokenBatch
from robust_prefix.backbones.causal import CausalBackbone
from robust_prefix.backbones.encoder import EncoderBackbone
from robust_prefix.backbones.loading import MODELS, load_backbone
from robust_prefix.backbones.seq2seq import Seq2SeqBackbone

__all__ = [
    "ACTIVATIONS",
    "MODELS",
    "Adapters",
    "Backbone",
    "CausalBackbone",
    "EncoderBackbone",
    "Seq2SeqBackbone",
    "TokenBatch",
    "load_backbone",
]
