"""An ensemble of prefixes on one frozen model: all of them answer in one batch.

Members that were trained apart err apart (Lakshminarayanan et al., NeurIPS 2017, "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles"); here a member is a prefix, so the
model is in memory once and a batch has each text once a member.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic.dataclasses import dataclass as checked_dataclass
from torch import Tensor

from robust_prefix.defenses.base import Defense, Fitted
from robust_prefix.defenses.voting import Combine, combined
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.prefixes import Inputs, Prefix, PrefixModel


@checked_dataclass(frozen=True, config={"extra": "forbid"})
class EnsembleConfig:
    """Settings of the ensemble.

    Attributes:
        combine: ``mean`` averages the members' probabilities; ``vote`` counts their answers, and
            among equals that mean decides.
        members: fingerprints of the members beside the run's own prefix, with hyphens between;
            those of the run where not given.
    """

    combine: Combine = "mean"
    members: str = ""


class Ensemble(Defense[EnsembleConfig]):
    """The run's own prefix and the members beside it, each asked about every text.

    Args:
        prefixes: the members beside the classifier's own, on the same base model.

    Raises:
        ArtifactError: there are none, or others than the settings name.
    """

    name = "ensemble"
    summary = "asks several prefixes in one batch and averages or counts their answers"
    config_type = EnsembleConfig
    needs_members = True

    def __init__(self, prefixes: Sequence[Prefix], **settings: Any) -> None:
        if not prefixes:
            raise ArtifactError(
                f"expected a run with several prefixes for the defence {self.name!r}, got one; "
                "put runs together with robust-prefix ensemble"
            )
        found = "-".join(member.fingerprint for member in prefixes)
        super().__init__(None, **{**settings, "members": settings.get("members") or found})
        if self.config.members != found:
            raise ArtifactError(
                f"expected the members {self.config.members} in the run, got {found}; the ensemble "
                "was made anew, name the defence without its members"
            )
        self.members = tuple(prefixes)
        self._made: list[PrefixModel] | None = None

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(fitted.members, **settings)

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        models = self._models(model)
        lengths = [each.prefix.length for each in models]
        longest = max(lengths)
        # What pads a shorter prefix is not seen, and its text follows where it ends.
        padded = [
            torch.nn.functional.pad(_whole(each), (0, 0, 0, longest - each.prefix.length))
            for each in models
        ]
        members = len(models)
        rows = torch.arange(len(inputs), device=inputs.batch.ids.device)
        states = model.backbone.run_to_answer(
            torch.stack([_embedded(each, model, inputs) for each in models], 1).flatten(0, 1),
            0,
            inputs.batch.select(rows.repeat_interleave(members)),
            torch.stack(padded, 1).repeat(1, len(inputs), 1, 1, 1, 1),
            None if min(lengths) == longest else torch.tensor(lengths).repeat(len(inputs)),
        )
        states = states.view(len(inputs), members, -1)
        # A member may have a classification head of its own.
        scores = [each.class_scores(states[:, place]) for place, each in enumerate(models)]
        return combined(torch.stack(scores, 1), self.config.combine)

    def _models(self, model: PrefixModel) -> list[PrefixModel]:
        """The classifier with each of the prefixes; made once a model."""
        if self._made is None or self._made[0] is not model:
            others = [PrefixModel(model.backbone, model.task, member) for member in self.members]
            self._made = [model, *others]
        return self._made


def _whole(member: PrefixModel) -> Tensor:
    """Its prefix, where it has one in every layer and nothing else before the first.

    Raises:
        ConfigError: it has not.
    """
    prefix = member.prefix_tensor
    if not isinstance(prefix, Tensor) or member.learned.kernel is not None:
        method = member.prefix.config.get("method", "a prefix in some layers only")
        raise ConfigError(
            f"expected members with a prefix in every layer and no kernel, got {method!r}; leave "
            "that run out of the ensemble"
        )
    return prefix


def _embedded(member: PrefixModel, model: PrefixModel, inputs: Inputs) -> Tensor:
    """``inputs.embedded`` as a member embeds them, gradients leading to ``inputs.embedded``.

    Learned positions are others behind a prefix of another length, and so are the embeddings of
    virtual tokens inside the template.
    """
    own = model.embed(inputs.batch, model.prefix.length)
    other = member.embed(inputs.batch, member.prefix.length)
    return inputs.embedded if torch.equal(own, other) else inputs.embedded + (other - own).detach()
