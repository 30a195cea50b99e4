"""What is generated is what our own passes behind the prefix say, step by step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.configs import DecodingConfig
from robust_prefix.errors import ArtifactError, ConfigError, InputError
from robust_prefix.generation import GenerationTask, PrefixGenerator
from robust_prefix.prefixes import Prefix

from ..families import tiny_encoder, tiny_seq2seq

SOURCES = ["film, good", "the end of the plot is cold and the cast is warm and bright", "end"]


def random_prefix(backbone: CausalBackbone, length: int = 5, seed: int = 1) -> Prefix:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(backbone.prefix_shape(length), generator=generator)
    return Prefix(tensor, backbone.name, backbone.fingerprint)


def own_scores(generator: PrefixGenerator, tokens: list[int]) -> torch.Tensor:
    """Scores of the next token ``(vocabulary,)``, by the pass that classifiers use."""
    backbone, prefix = generator.backbone, generator.prefix
    batch = backbone.pad([tokens])
    hidden = backbone.embed(batch, prefix.length)
    with torch.no_grad():
        state = backbone.run_to_answer(hidden, 0, batch, prefix.tensor)
        return backbone.next_token_logits(state)[0]


def prompt(generator: PrefixGenerator, source: str) -> list[int]:
    return generator.backbone.tokenize([generator.task.render(source)])[0]


@contextmanager
def steps_seen(backbone: CausalBackbone) -> Iterator[list[torch.Tensor]]:
    """The scores that the model gave at each step of ``transformers``' decoding."""
    seen: list[torch.Tensor] = []

    def see(_: Any, __: Any, output: Any) -> None:
        seen.append(output.logits[:, -1].detach().clone())

    hook = backbone.model.register_forward_hook(see)
    try:
        yield seen
    finally:
        hook.remove()


def test_the_first_scores_are_those_of_our_own_pass(
    any_backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    """Of prompts of several lengths in one batch."""
    generator = PrefixGenerator(any_backbone, reviews, random_prefix(any_backbone))
    rows = [prompt(generator, source) for source in SOURCES]
    assert len({len(row) for row in rows}) == len(SOURCES)
    with steps_seen(any_backbone) as seen:
        generator.generate(SOURCES, DecodingConfig(max_new_tokens=1))
    longest_first = sorted(rows, key=len, reverse=True)
    expected = torch.stack([own_scores(generator, row) for row in longest_first])
    assert expected.std() > 0.05
    torch.testing.assert_close(seen[0], expected, atol=2e-4, rtol=1e-3)
    bare = any_backbone.model(torch.tensor([longest_first[0]])).logits[0, -1]
    assert (bare - expected[0]).abs().max() > 1e-2, "the prefix does not matter to this model"


def test_greedy_text_is_that_of_a_hand_rolled_loop(
    any_backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    generator = PrefixGenerator(any_backbone, reviews, random_prefix(any_backbone))
    end = any_backbone.tokenizer.eos_token_id
    expected = []
    for source in SOURCES:
        tokens = prompt(generator, source)
        said: list[int] = []
        while len(said) < 6:
            best = int(own_scores(generator, [*tokens, *said]).argmax())
            if best == end:
                break
            said.append(best)
        expected.append(any_backbone.decode(said).strip())
    found = generator.generate(SOURCES, DecodingConfig(max_new_tokens=6))
    assert found == expected
    assert len(set(found)) > 1


def test_beams_find_what_greedy_search_misses(
    backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    """Two tokens, against every pair of tokens there is."""
    generator = PrefixGenerator(backbone, reviews, random_prefix(backbone, seed=3))
    end = backbone.tokenizer.eos_token_id
    two = {"max_new_tokens": 2, "length_penalty": 2.0}  # one token is less
    missed = 0
    for source in ("film", "plot, dull", "warm cast", "end"):
        tokens = prompt(generator, source)
        first = own_scores(generator, tokens).log_softmax(-1)
        batch = backbone.pad([[*tokens, word] for word in range(len(first))])
        with torch.no_grad():
            hidden = backbone.embed(batch, generator.prefix.length)
            state = backbone.run_to_answer(hidden, 0, batch, generator.prefix.tensor)
            second = backbone.next_token_logits(state).log_softmax(-1)
        both = first[:, None] + second
        both[end] = -torch.inf
        assert both.max() / 2**2 > first[end]
        best = [token for token in divmod(int(both.argmax()), both.shape[1]) if token != end]
        expected = backbone.decode(best).strip()
        assert generator.generate([source], DecodingConfig(beams=40, **two)) == [expected]
        missed += generator.generate([source], DecodingConfig(**two)) != [expected]
    assert missed, "greedy search found all of them"


def test_company_and_repeats_change_nothing(
    backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    generator = PrefixGenerator(backbone, reviews, random_prefix(backbone))
    short = DecodingConfig(max_new_tokens=5)
    alone = [generator.generate([source], short)[0] for source in SOURCES]
    again = [*SOURCES, *reversed(SOURCES)]
    backwards = [*alone, *reversed(alone)]
    assert generator.generate(again, short, batch_size=1) == backwards
    with steps_seen(backbone) as seen:
        assert generator.generate(again, short) == backwards
    assert len(seen[0]) == len(SOURCES), "equal sources were run again"
    assert generator.generate([]) == []


def test_what_is_saved_writes_as_before(
    tmp_path: Path, backbone: CausalBackbone, model_dir: Path, reviews: GenerationTask
) -> None:
    named = dataclasses.replace(random_prefix(backbone), base_model=str(model_dir))
    generator = PrefixGenerator(backbone, reviews, named, {"dev_loss": 1.5})
    generator.save_pretrained(tmp_path)
    again = PrefixGenerator.from_pretrained(tmp_path, dtype="float32")
    assert again.measurements == {"dev_loss": 1.5}
    assert again.task.to_dict() == reviews.to_dict()
    short = DecodingConfig(max_new_tokens=6, beams=2)
    assert again.generate(SOURCES, short) == generator.generate(SOURCES, short)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "expected words without NUL bytes as source 1, got ''"),
        (" \n", "as source 1"),
        ("a\0b", "as source 1"),
        (None, "as source 1, got None"),
        ("\ud800", "source 1 as Unicode text, got half a surrogate pair"),
        ("good " * 80, "at most 64 tokens in the prompt of source 1, got"),
    ],
    ids=["empty", "spaces", "nul", "none", "surrogate", "long"],
)
def test_bad_sources_are_named_by_their_place(
    backbone: CausalBackbone, reviews: GenerationTask, source: Any, message: str
) -> None:
    generator = PrefixGenerator(backbone, reviews, random_prefix(backbone))
    with pytest.raises(InputError, match=message):
        generator.generate(["film", source])


def test_one_source_is_not_taken_for_many(
    backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    generator = PrefixGenerator(backbone, reviews, random_prefix(backbone))
    with pytest.raises(InputError, match="expected a list of sources, got one str; put it into"):
        generator.generate("film")


def test_text_beyond_the_positions_is_refused(
    backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    generator = PrefixGenerator(backbone, reviews, random_prefix(backbone))
    with pytest.raises(InputError, match=r"at most 256 positions .* max_new_tokens=250; lower it"):
        generator.generate(["film"], DecodingConfig(max_new_tokens=250))


def test_braces_and_special_tokens_in_a_source_are_text(
    backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    generator = PrefixGenerator(backbone, reviews, random_prefix(backbone))
    assert reviews.render("{source} {0} \\1") == "{source} {0} \\1 ->"
    assert backbone.tokenizer.eos_token_id not in prompt(generator, "bad <|end|> good")
    [text] = generator.generate(["bad <|end|> {source}"], DecodingConfig(max_new_tokens=3))
    assert isinstance(text, str)


def test_other_models_and_prefixes_are_refused(
    backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    prefix = random_prefix(backbone)
    for change in (
        {"layers": (0, 1)},
        {"head": torch.ones(2, backbone.hidden_size + 1)},
        {"kernel": torch.ones(2, backbone.hidden_size)},
    ):
        with pytest.raises(ConfigError, match="expected keys and values in every layer"):
            PrefixGenerator(backbone, reviews, dataclasses.replace(prefix, **change))
    with pytest.raises(ArtifactError, match="expected a prefix for"):
        PrefixGenerator(backbone, reviews, dataclasses.replace(prefix, base_fingerprint="other"))
    for other in (tiny_encoder("bert"), tiny_seq2seq("t5")):
        with pytest.raises(ConfigError, match="expected a decoder to generate text with"):
            PrefixGenerator(other, reviews, prefix)


def test_a_damaged_run_is_named(
    tmp_path: Path, backbone: CausalBackbone, reviews: GenerationTask
) -> None:
    with pytest.raises(ArtifactError, match=r"with generation\.json at .*train-generation"):
        PrefixGenerator.from_pretrained(tmp_path, backbone=backbone)
    PrefixGenerator(backbone, reviews, random_prefix(backbone)).save_pretrained(tmp_path)
    path = tmp_path / "generation.json"
    values = json.loads(path.read_text())
    random_prefix(backbone, seed=9).save(tmp_path / "prefix.safetensors")
    with pytest.raises(ArtifactError, match="which was written there since"):
        PrefixGenerator.from_pretrained(tmp_path, backbone=backbone)
    random_prefix(backbone).save(tmp_path / "prefix.safetensors")
    for damaged, message in (
        ({"task": values["task"]}, "expected 'measurements' in"),
        ({**values, "task": {"name": "x", "colour": 1}}, "got 'colour'"),
        ({**values, "task": {"name": "x", "template": "none"}}, "expected {source} once"),
        ([], "in .*generation.json, got none"),
    ):
        path.write_text(json.dumps(damaged))
        with pytest.raises(ArtifactError, match=message):
            PrefixGenerator.from_pretrained(tmp_path, backbone=backbone)
