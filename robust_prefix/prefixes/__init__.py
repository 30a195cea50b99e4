"""What is learned: prefixes, how they are parameterised, and a backbone with one in place."""

from robust_prefix.prefixes.base import PREFIX_FILE, Prefix
from robust_prefix.prefixes.model import Encoded, Inputs, PrefixModel, margins
from robust_prefix.prefixes.scoring import plain_scores

__all__ = ["PREFIX_FILE", "Encoded", "Inputs", "Prefix", "PrefixModel", "margins", "plain_scores"]
