"""Virtual tokens among the texts of a template: rows, places, truncation and the model's answer."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.errors import ArtifactError, ConfigError
from robust_prefix.prefixes import Learned, Prefix, PrefixModel
from robust_prefix.prefixes.model import Prompter
from robust_prefix.prefixes.peft import write_peft
from robust_prefix.tasks import Fields, Task


def task_with(template: str, *columns: str) -> Task:
    return Task(
        name="own",
        columns=columns,
        labels=("no", "yes"),
        label_words=(" no", " yes"),
        template=template,
        max_tokens=40,
    )


# {[P_0:i], x, [P_i+1:j], y} of the paper: what a cloze task gives a decoder, and the pattern of a
# task with two texts, in which one virtual token stands between hard ones.
LAMA = task_with("{prompt:3} {subject}{prompt:2}", "subject")
CB = task_with("{premise} question: {hypothesis}?{prompt:1} answer:", "premise", "hypothesis")
TEXTS: dict[str, tuple[Task, Fields]] = {
    "lama": (LAMA, ("the film is good",)),
    "cb": (CB, ("the film is good and warm", "the plot is fine")),
}


def prefix_for(backbone: CausalBackbone, task: Task) -> Prefix:
    """Random embeddings for every virtual token of the template."""
    before, inside = task.virtual_tokens
    generator = torch.Generator().manual_seed(4)
    soft_tokens = torch.randn(before + inside, backbone.hidden_size, generator=generator)
    with torch.no_grad():
        return Prefix.of(Learned.compiled(backbone, soft_tokens, before), backbone, {})


@pytest.mark.parametrize("case", TEXTS)
def test_rows_put_virtual_tokens_where_the_template_does(
    backbone: CausalBackbone, case: str
) -> None:
    task, fields = TEXTS[case]
    prompter = Prompter(backbone, task)
    [row] = prompter.encode([fields]).rows
    vocabulary = len(backbone.embeddings)
    virtual = [token - vocabulary for token in row if token >= vocabulary]
    assert virtual == list(range(task.virtual_tokens[1]))
    if case == "lama":
        assert list(row) == [
            *backbone.tokenize([" the film is good"])[0],
            vocabulary,
            vocabulary + 1,
        ]
    else:
        first, last = row[: row.index(vocabulary)], row[row.index(vocabulary) + 1 :]
        assert backbone.decode(first) == f"{fields[0]} question: {fields[1]}?"
        assert backbone.decode(last) == " answer:"
        assert list(last) == backbone.encode([" answer:"])[0]


@pytest.mark.parametrize("case", TEXTS)
def test_answers_are_the_models_own(any_backbone: CausalBackbone, case: str) -> None:
    """Against transformers' forward over the embeddings of everything, virtual or not."""
    task, fields = TEXTS[case]
    prefix = prefix_for(any_backbone, task)
    classifier = PrefixClassifier(any_backbone, task, prefix)
    ours = classifier.logits([fields, tuple(text + " and warm" for text in fields)])

    before, _ = task.virtual_tokens
    matrix = any_backbone.model.get_input_embeddings().weight
    assert prefix.soft_tokens is not None
    table = torch.cat([matrix, prefix.soft_tokens[before:]])
    [row] = classifier.model.prompter.encode([fields]).rows
    whole = torch.cat([prefix.soft_tokens[:before], table[list(row)]])
    with torch.no_grad():
        theirs = any_backbone.model(inputs_embeds=whole[None]).logits[0, -1]
    words = [any_backbone.word_token(word) for word in task.label_words]
    assert (ours[0] - ours[1]).abs().max() > 1e-3
    torch.testing.assert_close(ours[0], theirs[words], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", TEXTS)
def test_spans_name_the_texts_and_nothing_else(backbone: CausalBackbone, case: str) -> None:
    task, fields = TEXTS[case]
    prompter = Prompter(backbone, task)
    [row] = prompter.encode([fields]).rows
    spans = prompter.spans(fields)
    assert len(spans) == len(row)
    for token, span in zip(row, spans, strict=True):
        if token >= len(backbone.embeddings):
            assert span is None
        elif span is not None:
            column, start, end = span
            assert fields[column][start:end].strip() in backbone.decode([token])
    for column, text in enumerate(fields):
        covered = {i for span in spans if span and span[0] == column for i in range(*span[1:])}
        assert covered >= {i for i, character in enumerate(text) if character != " "}


@pytest.mark.parametrize("case", TEXTS)
def test_a_long_text_loses_tokens_and_no_virtual_one(backbone: CausalBackbone, case: str) -> None:
    task, fields = TEXTS[case]
    encoded = Prompter(backbone, task).encode([fields, tuple(" good" * 99 for _ in fields)])
    assert encoded.truncated == (False, True)
    short, long = encoded.rows
    assert len(long) <= task.max_tokens
    vocabulary = len(backbone.embeddings)
    assert [t for t in long if t >= vocabulary] == [t for t in short if t >= vocabulary]
    assert long[-1] == short[-1]
    assert len(Prompter(backbone, task).spans(tuple(" good" * 99 for _ in fields))) == len(long)


@pytest.mark.parametrize("case", TEXTS)
def test_gradients_are_those_of_the_real_tokens(backbone: CausalBackbone, case: str) -> None:
    task, fields = TEXTS[case]
    classifier = PrefixClassifier(backbone, task, prefix_for(backbone, task))
    [found] = classifier.gradients([fields], [1])
    assert len(found.tokens) == len(found.spans) == len(found.gradient)
    [model] = [classifier.model]
    inputs = model.pad(model.prompter.encode([fields]))
    place = next(i for i, span in enumerate(found.spans) if span is not None)
    step = torch.zeros_like(inputs.embedded)
    step[0, place] = torch.from_numpy(found.gradient[place])
    step *= 1e-2 / step.norm()
    with torch.no_grad():
        logits = [
            model.logits(dataclasses.replace(inputs, embedded=inputs.embedded + sign * step))
            for sign in (1, -1)
        ]
    losses = [float(torch.nn.functional.cross_entropy(s, torch.tensor([1]))) for s in logits]
    slope = (losses[0] - losses[1]) / 2e-2
    assert slope == pytest.approx(float(abs(found.gradient[place] ** 2).sum() ** 0.5), rel=0.02)


def test_text_beside_a_virtual_token_is_not_the_beginning_of_a_text(
    backbone: CausalBackbone,
) -> None:
    task = task_with("{text} good{prompt:1} good ?", "text")
    [row] = Prompter(backbone, task).encode([("warm",)]).rows
    middle = list(row).index(len(backbone.embeddings))
    assert row[middle + 1] == row[middle - 1] == backbone.word_token(" good")


@pytest.mark.parametrize(
    ("template", "counts"),
    [
        ("{text} is it good ?", (0, 0)),
        ("{prompt:3}{text} is it good ?", (3, 0)),
        ("{prompt:3}{prompt:2} {text}{prompt:12}", (5, 12)),
        ("it is{prompt:3} {text} ?", (0, 3)),
    ],
)
def test_virtual_tokens_are_counted(template: str, counts: tuple[int, int]) -> None:
    assert task_with(template, "text").virtual_tokens == counts


def test_a_column_may_be_called_prompt() -> None:
    task = task_with("{prompt} is it{prompt:2} good ?", "prompt")
    assert task.render(("{prompt:9}",)) == "{prompt:9} is it\0\0 good ?"
    assert task.starts(("warm",)) == (0,)
    assert task_with("{prompt:2} {text} ?", "text").starts(("warm",)) == (3,)
    assert Task.from_dict(task.to_dict()) == task


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{prompt:0}{text} ?", r"\{prompt:N\} with N of 1 to 512 in .* got \{prompt:0\}"),
        ("{prompt:}{text} ?", r"got \{prompt:\}"),
        ("{text}{prompt:-1}", r"got \{prompt:-1\}"),
        ("{text}{prompt:three}", r"got \{prompt:three\}"),
        ("{text}{prompt:513}", r"got \{prompt:513\}"),
        ("{text} \0 ?", "got a NUL byte"),
        ("{prompt:2}{text}", "words after the last column"),
    ],
)
def test_a_bad_template_is_one_clear_line(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        task_with(template, "text")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("template", "other"),
    [
        ("{prompt:2}{text}{prompt:2}", "{prompt:2}{text}{prompt:3}"),
        ("{prompt:2}{text} ?", "{text}{prompt:2}"),
        ("{text}{prompt:2}", "{text} ?"),
        ("{prompt:1}{text} ?", "{prompt:2}{text} ?"),
    ],
)
def test_a_prefix_of_another_template_is_refused(
    backbone: CausalBackbone, template: str, other: str
) -> None:
    prefix = prefix_for(backbone, task_with(template, "text"))
    with pytest.raises(ArtifactError, match="for the template of task 'own', with"):
        PrefixModel(backbone, task_with(other, "text"), prefix)


def test_peft_has_no_place_for_them(backbone: CausalBackbone, tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="which is where PEFT puts them, got 2 inside"):
        write_peft(prefix_for(backbone, LAMA), str(tmp_path))


def test_texts_that_begin_alike_share_their_beginning(backbone: CausalBackbone) -> None:
    sentence = "the film is good and the cast is warm but its plot is dull"
    words = sentence.split()
    texts = [" ".join([*words[:place], "bright", *words[place + 1 :]]) for place in range(6, 14)]
    classifier = PrefixClassifier(backbone, LAMA, prefix_for(backbone, LAMA))
    passes = backbone.passes
    passes.reset()
    together = classifier.logits(texts)
    assert passes.forward < 0.8 * len(texts)
    alone = torch.cat([classifier.logits([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
