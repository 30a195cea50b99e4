"""The methods by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from robust_prefix.errors import ConfigError, unknown_name
from robust_prefix.prefixes.adapters import AdapterTuning
from robust_prefix.prefixes.autoprompt import AutoPrompt
from robust_prefix.prefixes.base import Prefix
from robust_prefix.prefixes.conv_prompt import ConvPrompt
from robust_prefix.prefixes.evolved_prompt import EvolvedPrompt
from robust_prefix.prefixes.fine_tuning import FineTuning
from robust_prefix.prefixes.gated_prefix import GatedPrefix
from robust_prefix.prefixes.manual_prompt import ManualPrompt
from robust_prefix.prefixes.method import Method
from robust_prefix.prefixes.p_tuning import PTuning
from robust_prefix.prefixes.p_tuning_v2 import PTuningV2
from robust_prefix.prefixes.prefix_tuning import PrefixTuning
from robust_prefix.prefixes.prompt_tuning import PromptTuning
from robust_prefix.prefixes.searched import Searched
from robust_prefix.specs import build_config, parse_spec
from robust_prefix.tasks import Task

METHODS: dict[str, type[Method[Any]]] = {
    method.name: method
    for method in (
        PrefixTuning,
        PTuningV2,
        GatedPrefix,
        PromptTuning,
        PTuning,
        ConvPrompt,
        AdapterTuning,
        FineTuning,
        ManualPrompt,
        AutoPrompt,
        EvolvedPrompt,
    )
}


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


def method_to_go_on(start: Prefix, task: Task, text: str | None, **settings: Any) -> Method[Any]:
    """The method that goes on from ``start``, by default the one that made it, as it was set.

    Args:
        text: another method, with its own defaults and the length of ``start``.
        settings: what differs, as text or as values.

    Raises:
        ConfigError: see :func:`build_method`.
    """
    if text is None:
        text = start.method
        return build_method(text, **{**start.config.get("prefix", {}), **settings})
    spec = parse_spec(text)
    known = METHODS[spec.name].config_type if spec.name in METHODS else None
    if known is not None and any(entry.name == "length" for entry in fields(known)):
        length = start.length - task.virtual_tokens[0]
        if length and issubclass(METHODS[spec.name], Searched):
            length -= 1  # the line break behind the words, which the method adds
        settings = {"length": length, **spec.settings, **settings}
        text = spec.name
    return build_method(text, **settings)


def method_of(config: object) -> Method[Any]:
    """The method that a configuration is one of."""
    for method in METHODS.values():
        if type(config) is method.config_type:
            return method(config)
    raise ConfigError(
        f"expected the configuration of a method ({', '.join(METHODS)}), got {config!r}"
    )
