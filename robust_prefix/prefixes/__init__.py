"""What is learned: prefixes, the methods that yield them, and a backbone with one in place."""

from __future__ import annotations

from typing import Any

from robust_prefix.errors import ConfigError, unknown_name
from robust_prefix.prefixes.base import PREFIX_FILE, Learned, Prefix
from robust_prefix.prefixes.method import Method, Trainable
from robust_prefix.prefixes.model import Encoded, Inputs, PrefixModel, margins
from robust_prefix.prefixes.p_tuning import PTuning
from robust_prefix.prefixes.prefix_tuning import PrefixTuning
from robust_prefix.prefixes.prompt_tuning import PromptTuning
from robust_prefix.prefixes.scoring import plain_scores
from robust_prefix.specs import build_config, parse_spec

METHODS: dict[str, type[Method[Any]]] = {
    method.name: method for method in (PrefixTuning, PromptTuning, PTuning)
}

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
    "plain_scores",
]


def build_method(text: str, **settings: Any) -> Method[Any]:
    """A method from its name and settings, such as ``prompt-tuning(length=20, init=labels)``.

    Args:
        settings: more of them, as text or as values.

    Raises:
        ConfigError: the name or a setting is unknown, out of range or given twice.
    """
    spec = parse_spec(text)
    if spec.name not in METHODS:
        raise unknown_name("method", spec.name, METHODS)
    twice = sorted(set(settings) & set(spec.settings))
    if twice:
        raise ConfigError(
            f"expected each setting of {spec.name} once, got {', '.join(twice)} in {text!r} and "
            "beside it"
        )
    chosen = METHODS[spec.name]
    return chosen(build_config(chosen.config_type, {**spec.settings, **settings}, spec.name))


def method_of(config: object) -> Method[Any]:
    """The method that a configuration is one of."""
    for method in METHODS.values():
        if isinstance(config, method.config_type):
            return method(config)
    raise ConfigError(
        f"expected the configuration of a method ({', '.join(METHODS)}), got {config!r}"
    )
