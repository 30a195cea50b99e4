"""An ensemble of prefixes on one frozen model: all of them answer in one batch.

Members that were trained apart err apart (Lakshminarayanan et al., NeurIPS 2017, "Simple and
Scalable Predictive Uncertainty Estimation using Deep Ensembles"); here a member is a prefix, so the
model is in memory once and a batch has each text once a member.
"""

from __future__ import annotations

import dataclasses
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
        super().__init__(None, **settings)
        if self.config.members not in ("", found):
            raise ArtifactError(
                f"expected the members {self.config.members} in the run, got {found}; the ensemble "
                "was made anew, name the defence without its members"
            )
        # In the settings, and so in every record.
        self.config = dataclasses.replace(self.config, members=found)
        self.members = tuple(prefixes)
        self.built_from = Fitted(members=self.members)
        self._made: list[PrefixModel] | None = None

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], fitted: Fitted, inner: Defense[Any] | None = None
    ) -> Self:
        """See ``Defense``."""
        return cls(fitted.members, **settings)

    def run(self, model: PrefixModel, inputs: Inputs) -> Tensor:
        models = self._models(model)
        embedded = [_embedded(each, model, inputs) for each in models]
        alike = len({(each.prefix.length, each.learned.layers) for each in models}) == 1
        if alike and not any(each.learned.changes_model for each in models):
            answers = _in_one_batch(models, inputs, embedded)
        else:  # texts stand at other positions behind each, in each layer, or in another model
            answers = [
                each.run_to_logits(inputs.batch, states, 0, each.prefix_tensor)
                for each, states in zip(models, embedded, strict=True)
            ]
        return combined(torch.stack(answers, 1), self.config.combine)

    def _models(self, model: PrefixModel) -> list[PrefixModel]:
        """The classifier with each of the prefixes; made once a model."""
        if self._made is None or self._made[0] is not model:
            check_together([model.prefix, *self.members])
            others = [PrefixModel(model.backbone, model.task, member) for member in self.members]
            self._made = [model, *others]
        return self._made


def check_together(prefixes: Sequence[Prefix]) -> None:
    """Raise ConfigError where prefixes cannot be asked about the same embeddings."""
    if any(prefix.learned.kernel is not None for prefix in prefixes):
        raise ConfigError(
            "expected prefixes that take embeddings as they are, got one that convolves them; "
            "train the members with another method"
        )
    if len({prefix.learned.head is None for prefix in prefixes}) > 1:
        raise ConfigError(
            "expected prefixes that all answer by label words, or all by a head of their own, got "
            "both; train the members with one method"
        )


def _in_one_batch(
    models: Sequence[PrefixModel], inputs: Inputs, embedded: Sequence[Tensor]
) -> list[Tensor]:
    """Scores ``(batch, classes)`` of each prefix, all of one length in the same layers.

    Args:
        embedded: states before the first layer ``(batch, tokens, hidden)``, of each.
    """
    backbone, texts, members = models[0].backbone, len(inputs), len(models)
    each = torch.arange(texts, device=inputs.embedded.device).repeat_interleave(members)
    prefixes = [
        torch.stack([model.prefix_tensor[layer] for model in models]).repeat(texts, 1, 1, 1, 1)
        for layer in range(backbone.prefix_rows)
    ]
    states = torch.stack(list(embedded), 1).flatten(0, 1)
    found = backbone.run_to_answer(states, 0, inputs.batch.select(each), prefixes)
    found = found.view(texts, members, -1)
    return [model.class_scores(found[:, number]) for number, model in enumerate(models)]


def _embedded(member: PrefixModel, model: PrefixModel, inputs: Inputs) -> Tensor:
    """``inputs.embedded`` as a member embeds them, gradients leading to ``inputs.embedded``.

    Learned positions are others behind a prefix of another length, and so are the embeddings of
    virtual tokens inside the template.
    """
    own = model.embed(inputs.batch, model.prefix.length)
    other = member.embed(inputs.batch, member.prefix.length)
    return inputs.embedded if torch.equal(own, other) else inputs.embedded + (other - own).detach()
