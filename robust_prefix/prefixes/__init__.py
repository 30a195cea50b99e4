"""What is learned: prefixes, how they are parameterised, and a backbone with one in place."""

from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.model import Encoded, Inputs, PrefixModel

__all__ = ["Encoded", "Inputs", "Prefix", "PrefixModel"]
