"""Gates: what they do to a prefix's contribution, and how they are folded."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as attention

from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import GatedPrefixConfig
from robust_prefix.errors import ConfigError
from robust_prefix.prefixes import Learned, Prefix, build_method
from robust_prefix.prefixes.gated_prefix import Gated
from robust_prefix.tasks import Task


def gated(backbone: CausalBackbone, spread: float = 2.0, **settings: object) -> Gated:
    """A prefix of length 4 with gates drawn at random."""
    torch.manual_seed(1)
    config = GatedPrefixConfig(length=4, **settings)  # type: ignore[arg-type]
    module = Gated(torch.randn(backbone.prefix_shape(4)), config)
    with torch.no_grad():
        module.logits.normal_(0, spread)
    return module


@pytest.mark.parametrize("gate", ["layer", "head", "token"])
@pytest.mark.parametrize("both", [False, True], ids=["values", "both"])
def test_training_starts_at_the_start(backbone: CausalBackbone, gate: str, both: bool) -> None:
    start = torch.randn(backbone.prefix_shape(4))
    config = GatedPrefixConfig(length=4, gate=gate, gated="both" if both else "values", opening=0.3)
    module = Gated(start, config)
    assert module.gates.detach().unique().tolist() == pytest.approx([0.3])
    torch.testing.assert_close(module(backbone).tensor, start)


@pytest.mark.parametrize(("gate", "count"), [("layer", 3), ("head", 3 * 2), ("token", 3 * 4)])
def test_each_gate_scales_what_is_its_own(backbone: CausalBackbone, gate: str, count: int) -> None:
    module = gated(backbone, gate=gate)
    assert module.logits.numel() == count
    tensor, folded = module.tensor, module(backbone).tensor
    assert torch.equal(folded[:, 0], tensor[:, 0])
    ratio = (folded / tensor)[:, 1]  # (layers, kv_heads, length, head_dim)
    expected = module.gates.expand(3, 1, 2, 4, 1)[:, 0].expand_as(ratio)
    torch.testing.assert_close(ratio, expected)
    both = gated(backbone, gate=gate, gated="both")
    torch.testing.assert_close(both(backbone).tensor[:, 0], both.tensor[:, 0] * both.gates[:, 0])
    notes = module.notes()["gates"]
    assert torch.tensor(notes).shape == (3, count // 3)
    assert all(0 < value < 1 for row in notes for value in row)


def test_a_gate_on_values_scales_the_prefix_s_part_alone(backbone: CausalBackbone) -> None:
    """``g a o_P + (1 - a) o_T`` of the folded prefix of one head, by attention over each part."""
    module = gated(backbone)
    with torch.no_grad():
        keys, values = module(backbone).tensor[1, :, 0]  # (length, head_dim) of layer 1, head 0
        plain = module.tensor[1, 1, 0]
        gate = module.gates[1, 0, 0, 0, 0]
    size = keys.shape[-1]
    query, text_keys, text_values = torch.randn(1, size), torch.randn(6, size), torch.randn(6, size)
    whole = attention(query, torch.cat([keys, text_keys]), torch.cat([values, text_values]))
    scores = (query @ torch.cat([keys, text_keys]).T / size**0.5).softmax(-1)
    share = scores[:, :4].sum()
    of_prefix, of_text = attention(query, keys, plain), attention(query, text_keys, text_values)
    torch.testing.assert_close(whole, gate * share * of_prefix + (1 - share) * of_text)
    assert 0.01 < share < 0.99


def test_gates_are_trained(backbone: CausalBackbone) -> None:
    module = gated(backbone)
    batch = backbone.pad([[5, 6, 7, 8]])
    learned = module(backbone)
    hidden = backbone.run_layers(backbone.embed(batch, 4), 0, 3, batch, learned.by_layer())
    hidden.sum().backward()
    assert module.logits.grad is not None
    assert (module.logits.grad[:2].abs() > 0).all()


def test_a_prefix_of_some_layers_is_not_gone_on_with(backbone: CausalBackbone, task: Task) -> None:
    some = Learned(torch.zeros(backbone.prefix_shape(4)), layers=(1,))
    prefix = Prefix.of(some, backbone, {})
    with pytest.raises(ConfigError, match=r"in every layer to start from, got one in \(1,\)"):
        build_method("gated-prefix(length=4)").trainable(backbone, task, prefix)
