"""What is learned: prefixes, how they are parameterised, and a backbone with one in place."""

from robust_prefix.prefixes.base import PREFIX_FILE, Prefix
from robust_prefix.prefixes.model import Encoded, Inputs, PrefixModel

__all__ = ["PREFIX_FILE", "Encoded", "Inputs", "Prefix", "PrefixModel"]
