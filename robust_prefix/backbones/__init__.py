"""The frozen language model: load it, tokenise, run a range of layers, score the label words."""

from robust_prefix.backbones.base import TokenBatch
from robust_prefix.backbones.causal import CausalBackbone
from robust_prefix.backbones.loading import MODELS, load_backbone

__all__ = ["MODELS", "CausalBackbone", "TokenBatch", "load_backbone"]
