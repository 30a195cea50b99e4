"""What a prefix is trained on: clean prompts, and what an adversary makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from robust_prefix.backbones import Backbone, TokenBatch
from robust_prefix.prefixes.learned import Learned
from robust_prefix.prefixes.method import Trainable
from robust_prefix.prefixes.model import Prompter
from robust_prefix.specs import build_config
from robust_prefix.synonyms import Substitutes
from robust_prefix.tasks import Fields
from robust_prefix.word_scores import CrossFitted, WordScores, bounded


class TextReader(Protocol):
    """What rewrites texts before the model reads them; a ``TextDefense`` is one."""

    @property
    def spec(self) -> str: ...

    def read(self, fields: Fields) -> Fields:
        """The text that the model gets."""
        ...


@dataclass(frozen=True)
class Prompts:
    """Padded prompts.

    Attributes:
        batch: their tokens.
        embedded: their states before the first layer ``(batch, tokens, hidden)``.
        beside: what their words add to the class scores, float32 ``(batch, classes)``; nothing
            where not given.
    """

    batch: TokenBatch
    embedded: Tensor
    beside: Tensor | None = None


@dataclass(frozen=True)
class Minibatch:
    """What an adversary works on.

    Attributes:
        prompts: the clean prompts.
        labels: numbers of the true classes ``(batch,)``.
        fields: the texts of the prompts.
        step: how many minibatches came before; with the seed it decides everything random.
        losses: of prompts, one an example ``(batch,)``: cross-entropy over the label words under
            the prefix as it is, which receives no gradient.
        embed: prompts of texts, one an example or several times as many in the same order.
        at_input: a gradient at the states of prompts, led back to their input embeddings.
        words: the scores of words that stand beside the model, those of each example; empty where
            none do.
    """

    prompts: Prompts
    labels: Tensor
    fields: Sequence[Fields]
    step: int
    losses: Callable[[Prompts], Tensor]
    embed: Callable[[Sequence[Fields]], Prompts]
    at_input: Callable[[Prompts, Tensor], Tensor]
    words: Sequence[WordScores] = ()

    def slopes(self, prompts: Prompts) -> tuple[Tensor, Tensor | None]:
        """How the sum of the losses changes with the prompts' input embeddings ``(batch, tokens,
        hidden)`` and with what their words add ``(batch, classes)``, both float32 on the CPU; None
        without words."""
        with torch.enable_grad():
            leaves = [prompts.embedded.detach().requires_grad_()]
            if prompts.beside is not None:
                leaves.append(prompts.beside.detach().requires_grad_())
            losses = self.losses(Prompts(prompts.batch, *leaves)).sum()
            found = torch.autograd.grad(losses, leaves)
        at_input = self.at_input(prompts, found[0]).float().cpu()
        return at_input, found[1].float().cpu() if len(found) > 1 else None


Config = TypeVar("Config")


class Adversary(ABC, Generic[Config]):
    """Makes prompts harder during training.

    Attributes:
        name: what users type.
        summary: what it does, in a few words.
        config_type: its settings.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    config_type: ClassVar[type[Any]]

    def __init__(self, **settings: Any) -> None:
        self.config: Config = build_config(self.config_type, settings, self.name)

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        prompter: Prompter,
        substitutes: Substitutes | None,
        reader: TextReader | None = None,
    ) -> Self:
        """Build from settings given as text."""
        return cls(**settings)

    @abstractmethod
    def perturb(self, minibatch: Minibatch, seed: int) -> list[Prompts]:
        """Harder versions of the minibatch; the loss is the mean over them."""


class InTurn:
    """Adversaries that take turns, a minibatch each."""

    def __init__(self, parts: Sequence[Adversary[Any]]) -> None:
        self.parts = tuple(parts)

    def perturb(self, minibatch: Minibatch, seed: int) -> list[Prompts]:
        """See ``Adversary``: what the one makes of it whose turn it is."""
        return self.parts[minibatch.step % len(self.parts)].perturb(minibatch, seed)


class PrefixObjective(nn.Module):
    """Cross-entropy of the label word, or of the class of a head, at the answer position.

    With an adversary the loss is ``(1 - weight) * clean + weight * adversarial``. It acts while
    the module is in training mode only, so accuracy on dev is that on clean text. The backbone is
    kept out of the module tree: checkpoints hold the prefix and the count of minibatches.

    With scores of words beside the model the loss is that of both together, over the classes: the
    prefix learns what the words leave open (a product of experts: Hinton, Neural Computation 2002).
    What bounds the model in ``word-scores`` is left out of the loss, for beyond it there would be
    no gradient.

    Args:
        texts: the training texts, by the ``index`` that ``forward`` gets; an adversary needs them.
        words: scores of words that stand beside the model.
    """

    def __init__(
        self,
        prompter: Prompter,
        parameters: Trainable,
        adversary: Adversary[Any] | InTurn | None = None,
        texts: Sequence[Fields] = (),
        weight: float = 0.5,
        seed: int = 0,
        words: CrossFitted | None = None,
    ) -> None:
        super().__init__()
        self.prefix = parameters
        self._frozen = (prompter,)
        self._adversary = adversary
        self._texts = texts
        self._weight = weight
        self._seed = seed
        self._words = words
        if adversary is not None:
            # In the checkpoints, so that a resumed run meets the very same adversaries.
            self.register_buffer("minibatches", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        ids: Tensor,
        answer: Tensor,
        labels: Tensor,
        index: Tensor | None = None,
        lengths: Tensor | None = None,
        beside: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and float32 ``(batch, classes)`` logits of padded prompts ``(batch, tokens)``.

        Args:
            index: places of the prompts' texts ``(batch,)``.
            beside: what the prompts' words add ``(batch, classes)``; needed with ``words``.
            ids, answer, lengths: see ``TokenBatch``.
        """
        prompter = self._frozen[0]
        batch = TokenBatch(ids, answer, lengths)
        learned = self.learned()
        backbone = learned.model(prompter.backbone)
        embedded = backbone.embed(batch, learned.length, learned.inner_tokens)
        clean = Prompts(batch, embedded, beside)
        adversary = self._adversary if self.training and index is not None else None
        # Where clean text has no share in the loss its gradients need not be had.
        wanted = torch.is_grad_enabled() and (adversary is None or self._weight < 1)
        with torch.set_grad_enabled(wanted):
            loss, scores = self._loss(backbone, clean, labels, learned)
        if adversary is not None and index is not None:
            harder = adversary.perturb(
                self._minibatch(backbone, clean, labels, index, learned), self._seed
            )
            self.get_buffer("minibatches").add_(1)
            adversarial = [self._loss(backbone, prompts, labels, learned)[0] for prompts in harder]
            loss = (1 - self._weight) * loss + self._weight * torch.stack(adversarial).mean()
        return {"loss": loss, "logits": scores}

    def _loss(
        self, backbone: Backbone, prompts: Prompts, labels: Tensor, learned: Learned
    ) -> tuple[Tensor, Tensor]:
        """Mean loss over prompts, and the class scores that are answered with."""
        tokens = self._frozen[0].label_tokens
        state = _state(backbone, prompts, learned)
        if self._words is None:
            scores = learned.scores(backbone, state, None)
            loss = nn.functional.cross_entropy(scores, tokens[labels])
            if self.training:
                return loss, scores[:, tokens].detach()
            # As the classifier answers, from float32 scores of the label words alone.
            return loss, learned.scores(backbone, state, tokens).detach()
        if prompts.beside is None:
            raise ValueError("expected what the words add beside the prompts, got nothing")
        scores = learned.scores(backbone, state, tokens)
        loss = nn.functional.cross_entropy(scores + prompts.beside, labels)
        said = bounded(scores.detach(), self._words.limit)
        return loss, said + prompts.beside

    def learned(self) -> Learned:
        """What the parameters give now, in the model's type."""
        backbone = self._frozen[0].backbone
        learned: Learned = self.prefix(backbone)
        return learned.to(backbone.device, backbone.dtype)

    def _minibatch(
        self,
        backbone: Backbone,
        prompts: Prompts,
        labels: Tensor,
        index: Tensor,
        learned: Learned,
    ) -> Minibatch:
        prompter = self._frozen[0]
        held = learned.detach()
        places = index.tolist()
        words = [] if self._words is None else [self._words.leaving_out(n) for n in places]
        held_model = held.model(prompter.backbone)

        def losses(prompts: Prompts) -> Tensor:
            state = _state(held_model, prompts, held)
            scores = held.scores(held_model, state, prompter.label_tokens)
            if prompts.beside is not None:
                scores = scores + prompts.beside
            repeats = len(scores) // len(labels)
            return nn.functional.cross_entropy(scores, labels.repeat(repeats), reduction="none")

        def embed(texts: Sequence[Fields]) -> Prompts:
            batch = backbone.pad(prompter.encode(texts).rows)
            embedded = backbone.embed(batch, learned.length, learned.inner_tokens)
            if not words:
                return Prompts(batch, embedded)
            sums = [words[n % len(words)].sums([text])[0] for n, text in enumerate(texts)]
            return Prompts(batch, embedded, torch.stack(sums).to(embedded.device))

        def at_input(prompts: Prompts, gradient: Tensor) -> Tensor:
            soft_tokens = learned.inner_tokens
            return backbone.input_gradient(prompts.batch, learned.length, gradient, soft_tokens)

        return Minibatch(
            at_input=at_input,
            prompts=prompts,
            labels=labels,
            fields=[self._texts[place] for place in places],
            step=int(self.get_buffer("minibatches")),
            losses=losses,
            embed=embed,
            words=words,
        )


def _state(backbone: Backbone, prompts: Prompts, learned: Learned) -> Tensor:
    """What is behind the last layer at the answer position ``(batch, hidden)``."""
    hidden = learned.interact(prompts.embedded)
    return backbone.run_to_answer(hidden, 0, prompts.batch, learned.by_layer())
