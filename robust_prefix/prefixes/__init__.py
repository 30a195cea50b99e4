"""What is learned: prefixes, the methods that yield them, and a backbone with one in place."""

from robust_prefix.prefixes.base import PREFIX_FILE, Prefix
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Method, Trainable
from robust_prefix.prefixes.model import Encoded, Inputs, PrefixModel, margins
from robust_prefix.prefixes.registry import METHODS, build_method, method_of, method_to_go_on
from robust_prefix.prefixes.scoring import plain_scores

__all__ = [
    "METHODS",
    "PREFIX_FILE",
    "Encoded",
    "Inputs",
    "Learned",
    "Method",
    "Prefix",
    "PrefixModel",
    "Trainable",
    "build_method",
    "margins",
    "method_of",
    "method_to_go_on",
    "plain_scores",
]
