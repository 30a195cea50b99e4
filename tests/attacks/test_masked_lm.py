"""Masked language models: where they are looked for, what they propose, and the attacks on them."""

from __future__ import annotations

import itertools
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

from attacks import build_attack, list_attacks
from attacks.base import Recipe
from attacks.resources import find_resource, get_command, is_available
from attacks.resources.masked_lm import MaskedLM, load_masked_lm
from robust_prefix.errors import ResourceError

pytestmark = pytest.mark.usefixtures("encoder")

Build = Callable[..., Recipe]
BERT, ROBERTA = "bert-base-uncased", "distilroberta-base"
HUB = {BERT: "google-bert/bert-base-uncased", ROBERTA: "distilbert/distilroberta-base"}
WORDS = """
    a actor an and bad charming dull enjoy film good grand great is it journey lovely movie nice
    often picture relish s solid tedious the this trip was
""".split()  # noqa: SIM905
PIECES = ["##ing", "##ly", "film", "act", "2", ",", ".", "!"]
PAIR = ("premise", "hypothesis")
# The toy models are untrained: their likelihoods and similarities mean nothing.
SPECS = {
    "bae": "bae(min_similarity=0)",
    "bert-attack": "bert-attack(min_similarity=0, max_changed=1)",
    "clare": "clare(min_similarity=0)",
    "a2t": "a2t(min_similarity=0, candidates=masked-lm, ranking=delete, max_candidates=50)",
}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def _sharpen(model: torch.nn.Module, factor: float) -> None:
    """Make the weights large enough that the predictions differ between places."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(factor)


def write_bert(folder: Path, head: bool = True) -> Path:
    """A random BERT with a vocabulary of words, pieces and signs."""
    from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS + PIECES)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), model_max_length=64)
    tokenizer.save_pretrained(folder)
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **SMALL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = (BertForMaskedLM if head else BertModel)(config)
        _sharpen(model, 20)
        model.save_pretrained(folder)
    return folder


def write_roberta(folder: Path) -> Path:
    """A random RoBERTa with a byte-level BPE; its logits are padded to a round number."""
    from transformers import RobertaConfig, RobertaForMaskedLM, RobertaTokenizerFast

    folder.mkdir(parents=True)
    raw = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    text = " ".join(WORDS)
    raw.train_from_iterator([f"{text} Good good"] * 9, 600, special_tokens=special)
    raw.save_model(str(folder))
    tokenizer = RobertaTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(vocab_size=640, max_position_embeddings=66, pad_token_id=1, **SMALL)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RobertaForMaskedLM(config)
        _sharpen(model, 4)
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models_dir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy data folder with both models."""
    folder = tmp_path_factory.mktemp("models") / "data"
    shutil.copytree(data_dir, folder)
    write_bert(folder / "masked-lm" / BERT)
    write_roberta(folder / "masked-lm" / ROBERTA)
    return folder


@pytest.fixture(scope="module")
def build(models_dir: Path) -> Build:
    return lambda spec, columns=("text",): build_attack(spec, columns, models_dir)  # type: ignore[return-value]


@pytest.fixture(params=[BERT, ROBERTA])
def model(request: pytest.FixtureRequest, models_dir: Path) -> MaskedLM:
    return load_masked_lm(find_resource(request.param, models_dir))


@pytest.fixture
def bert(models_dir: Path) -> MaskedLM:
    return load_masked_lm(find_resource(BERT, models_dir))


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No model that the machine's Hub cache may hold."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", [BERT, ROBERTA])
def test_it_is_looked_for_in_the_data_folder_the_cache_and_the_hubs(
    name: str, models_dir: Path, own_cache: Path, empty_hub: Path, tmp_path: Path
) -> None:
    assert not is_available(name)
    snapshot = empty_hub / f"models--{HUB[name].replace('/', '--')}" / "snapshots" / "abc"
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    shutil.copytree(models_dir / "masked-lm" / name, snapshot)
    places = [(snapshot, "hub")]
    for folder, origin in ((own_cache, "cache"), (tmp_path / "data", "data-dir")):
        shutil.copytree(models_dir / "masked-lm" / name, folder / "masked-lm" / name)
        places.append((folder / "masked-lm" / name, origin))
    hashes = set()
    for path, origin in reversed(places):
        found = find_resource(name, tmp_path / "data")
        assert (found.path, found.origin) == (path, origin)
        hashes.add(found.sha256)
        (path / "model.safetensors").unlink()
    assert len(hashes) == 1
    assert not is_available(name, tmp_path / "data")


@pytest.mark.parametrize("name", [BERT, ROBERTA])
def test_what_the_command_downloads_is_enough(name: str, models_dir: Path, own_cache: Path) -> None:
    words = shlex.split(get_command(name))
    files = words[3 : words.index("--local-dir")]
    target = Path(words[-1])
    target.mkdir(parents=True)
    for file in files:
        shutil.copy(models_dir / "masked-lm" / name / file, target)
    found = find_resource(name)
    assert found.path == target
    # The command leaves notes with the time, which are no part of the model.
    (target / ".cache" / "huggingface").mkdir(parents=True)
    (target / ".cache" / "huggingface" / "config.json.metadata").write_text("1700000000")
    assert find_resource(name) == found
    text, span = "the film was good", (13, 17)
    whole = MaskedLM(models_dir / "masked-lm" / name)
    assert MaskedLM(target).fill(text, [span], 50) == whole.fill(text, [span], 50)


@pytest.mark.parametrize("name", ["bae", "bert-attack", "clare"])
def test_without_the_model_the_error_says_how_to_get_it(
    name: str, data_dir: Path, own_cache: Path
) -> None:
    with pytest.raises(ResourceError) as caught:
        build_attack(name, ("text",), data_dir)
    message = str(caught.value)
    model = ROBERTA if name == "clare" else BERT
    assert "\n" not in message
    assert f"expected the model masked-lm/{model} in --data-dir or {own_cache}" in message
    words = shlex.split(message.partition("; run: ")[2])
    assert words[:3] == ["hf", "download", HUB[model]]
    # What the command writes is where the model is looked for.
    assert Path(words[words.index("--local-dir") + 1]) == own_cache / "masked-lm" / model
    [info] = [info for info in list_attacks(data_dir) if info.name == name]
    assert info.missing == (model,)
    assert str(info.command) in message


def test_a_model_without_its_head_is_refused_not_made_up(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"got no weights for cls\.predictions"):
        MaskedLM(write_bert(tmp_path / "bert", head=False))


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_model_is_one_line(broken: str, models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(models_dir / "masked-lm" / BERT, tmp_path / "model")
    (tmp_path / "model" / broken).write_text("{")
    with pytest.raises(ResourceError, match="expected a masked language model in") as caught:
        MaskedLM(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_words_come_in_the_order_of_their_probability(bert: MaskedLM, models_dir: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = models_dir / "masked-lm" / BERT
    tokenizer = AutoTokenizer.from_pretrained(folder)
    masked = AutoModelForMaskedLM.from_pretrained(folder).eval()
    text = "the film was good , the trip was dull"
    inputs = tokenizer(text.replace("good", "[MASK]"), return_tensors="pt")
    with torch.no_grad():
        scores = masked(**inputs).logits[0, 4]
    order = [tokenizer.convert_ids_to_tokens(i) for i in scores.argsort(descending=True).tolist()]
    expected = [word for word in order if word in WORDS or word in ("film", "act")]
    place = (text.index("good"), text.index("good") + 4)
    assert bert.fill(text, [place], 100) == [expected]
    floor = float(scores.softmax(-1)[tokenizer.convert_tokens_to_ids(expected[3])]) * 0.999
    assert bert.fill(text, [place], 100, floor) == [expected[:4]]
    assert bert.fill(text, [place], 2) == [expected[:2]]


def test_only_whole_words_are_proposed(model: MaskedLM) -> None:
    [found] = model.fill("the film was good", [(13, 17)], 1000)
    assert set(WORDS) - {"a", "s"} <= set(found)
    assert len(set(found)) == len(found)
    # Single letters are words of the byte-level BPE only where they came as one.
    assert not {"ing", "ly", "##ing", "2", ",", "", "[MASK]", "<mask>", "good film"} & set(found)


def test_at_a_beginning_a_word_needs_no_mark(models_dir: Path) -> None:
    model = load_masked_lm(find_resource(ROBERTA, models_dir))
    [inside, first] = (model.fill("good film", [span], 1000)[0] for span in ((5, 9), (0, 4)))
    assert {"good", "Good"} <= set(inside)
    # "ovie" and "ood" are pieces at a beginning, too.
    assert {"good"} <= set(first)
    assert set(first) <= set(inside)


def test_places_do_not_depend_on_one_another(model: MaskedLM) -> None:
    text = "the film was good , " * 5
    spans = [(i, i + 3) for i in range(0, len(text) - 3, 20)] * 9  # more than a batch
    together = model.fill(text, spans, 5)
    assert together == [model.fill(text, [span], 5)[0] for span in spans]
    assert len({tuple(words) for words in together}) > 1


def test_a_text_that_spells_the_mask_and_a_text_too_long(bert: MaskedLM) -> None:
    text = "[MASK] was a good [MASK] film"
    place = (text.index("good"), text.index("good") + 4)
    plain = text.replace("[MASK]", " ")
    start = plain.index("good")
    assert bert.fill(text, [place], 9) == bert.fill(plain, [(start, start + 4)], 9)
    long = "good " * 100
    near, far = bert.fill(long, [(0, 4), (495, 499)], 9)
    assert near
    assert far == []
    assert bert.rewrite(long, [(495, 499)], 9) == [[]]
    assert bert.fill("", [], 9) == bert.rewrite("", [], 9) == []


def test_a_word_of_several_pieces_gets_the_best_combinations(
    bert: MaskedLM, models_dir: Path
) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = models_dir / "masked-lm" / BERT
    tokenizer = AutoTokenizer.from_pretrained(folder)
    masked = AutoModelForMaskedLM.from_pretrained(folder).eval()
    text = "the acting was good"
    inputs = tokenizer(text, return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(inputs.input_ids[0])[2:4] == ["act", "##ing"]
    with torch.no_grad():
        scores = masked(**inputs).logits[0].log_softmax(-1)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    top = [scores[n].topk(12).indices.tolist() for n in (2, 3)]
    every = sorted(
        itertools.product(*top), key=lambda pair: -float(scores[2, pair[0]] + scores[3, pair[1]])
    )
    usable = [pair for pair in every if not any(tokens[i].startswith("[") for i in pair)]
    joined = ["".join(tokens[i].removeprefix("##") for i in pair) for pair in usable[:12]]
    expected = [word for word in joined if word.isalpha()]
    assert bert.rewrite(text, [(4, 10)], 12) == [list(dict.fromkeys(expected))]


def test_a_word_of_one_piece_gets_what_is_predicted_there(bert: MaskedLM) -> None:
    text = "the film was good"
    [few], [all_words] = bert.rewrite(text, [(13, 17)], 6), bert.rewrite(text, [(13, 17)], 1000)
    assert few == all_words[: len(few)]
    assert len(few) <= 6
    assert set(all_words) == set(WORDS) | {"film", "act"}


@pytest.mark.parametrize("name", SPECS)
def test_an_adversary_differs_and_is_misclassified(
    name: str, build: Build, bag_of_words: Any
) -> None:
    victim, text = bag_of_words(), "a good , charming journey"
    attempt = build(SPECS[name]).perturb(victim, (text,), 1, seed=0)
    assert attempt.adversarial is not None
    assert attempt.adversarial != (text,)
    assert victim.predict(attempt.adversarial) == 0
    # where there is nothing a sign is asked about
    assert victim.asked[0][0].strip(" _\n") == text.strip(" _\n")
    assert attempt.queries >= len(victim.asked)
    assert build(SPECS[name]).perturb(bag_of_words(), (text,), 1, seed=0) == attempt


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("limit", [1, 2, 5, 9])
def test_the_budget_holds(name: str, limit: int, build: Build, bag_of_words: Any) -> None:
    victim, text = bag_of_words(), "good good good good charming great journey"
    spec = SPECS[name].replace("(", f"(max_queries={limit}, ")
    attempt = build(spec).perturb(victim, (text,), 1, seed=0)
    assert (attempt.adversarial, attempt.queries) == (None, limit)
    assert len(victim.asked) <= limit


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    ("modify", "changed"),
    [("last", {"hypothesis"}), ("premise", {"premise"}), ("all", {"premise", "hypothesis"})],
)
def test_of_a_pair_only_the_named_columns_change(
    name: str, modify: str, changed: set[str], build: Build, bag_of_words: Any
) -> None:
    fields = ("a good movie , a great", "trip a good movie , a great trip")
    victim = bag_of_words(PAIR)
    spec = SPECS[name].replace("(", f"(modify={modify}, ")
    build(spec, PAIR).perturb(victim, fields, 1, seed=0)
    assert victim.asked[0] == fields
    seen = {
        column
        for asked in victim.asked
        for column, old, new in zip(PAIR, fields, asked, strict=True)
        if old != new
    }
    assert seen == changed
    # Nothing is merged across the two: both keep a word.
    assert all(all(field.split() for field in asked) for asked in victim.asked)


ODD = {
    "empty": "",
    "dots": "...",
    "arabic": "فيلم رائع جدا",
    "chinese": "我喜欢这部电影",
    "separators": "\u2028good\u2029 \u00a0film\u200b",
    "marks": "_ - ' * @ 'tis-",
    "combining": "e\u0301te\u0301 cafe\u0301 İstanbul",
    "mask": "[MASK] <mask> good",
    "long": "good film " * 35,
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_do_not_crash(name: str, text: str, build: Build, brittle: Any) -> None:
    victim = brittle((text,))
    spec = SPECS[name].replace("(", "(max_queries=40, ")
    attempt = build(spec).perturb(victim, (text,), 1, seed=0)
    # where there is nothing a sign is asked about
    assert victim.asked[0][0].strip(" _\n") == text.strip(" _\n")
    if text in (ODD["empty"], ODD["dots"]):
        assert (attempt.adversarial, attempt.queries) == (None, 1)


class Stubborn:
    """Never fooled: it is shown all that an attack comes up with."""

    labels = ("negative", "positive")
    columns = ("text",)

    def __init__(self) -> None:
        self.asked: list[str] = []

    def logits(self, texts: Any) -> Any:
        self.asked.extend(text for (text,) in texts)
        return torch.tensor([[0.0, 1.0]] * len(texts)).numpy()


def test_bae_proposes_as_textattacks_own_transformation(build: Build, models_dir: Path) -> None:
    build(SPECS["bae"])  # imports TextAttack
    from textattack.shared import AttackedText
    from textattack.transformations import WordSwapMaskedLM
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from attacks.parts.masked_swaps import MaskedSwap

    folder = models_dir / "masked-lm" / BERT
    theirs = WordSwapMaskedLM(
        "bae",
        AutoModelForMaskedLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
        max_length=64,
        max_candidates=1000,
        min_confidence=0.0,
    )
    text = AttackedText("the film was good , a charming trip")
    ours = MaskedSwap(find_resource(BERT, models_dir), 1000)
    expected = {t.text for t in theirs(text)}
    # Pieces, which it takes for words, special tokens and numbers.
    differing = {word for t in expected - {t.text for t in ours(text)} for word in t.split()}
    assert differing - set(text.text.split()) <= {
        "ing",
        "ly",
        "2",
        "MASK",
        "PAD",
        "UNK",
        "CLS",
        "SEP",
    } | {f"[{name}]" for name in ("MASK", "PAD", "UNK", "CLS", "SEP")}
    assert {t.text for t in ours(text)} <= expected


def test_clare_replaces_inserts_and_merges(build: Build) -> None:
    victim, text = Stubborn(), "the charming film"
    build("clare(min_similarity=0, max_queries=200)").perturb(victim, (text,), 1, seed=0)
    words = [t.split() for t in dict.fromkeys(victim.asked[1:])]
    old = text.split()
    # One step from the original; stopwords are inserted before and merged, but not replaced.
    first = [w for w in words if sum(word not in old for word in w) == 1]
    replaced = {tuple(a == b for a, b in zip(w, old, strict=True)) for w in first if len(w) == 3}
    inserted = {w.index(next(word for word in w if word not in old)) for w in first if len(w) == 4}
    merged = {tuple(word in old for word in w) for w in first if len(w) == 2}
    assert replaced == {(True, False, True), (True, True, False)}
    assert inserted == {0, 1, 2}
    assert merged == {(False, True), (True, False)}


def test_a_merge_leaves_changed_words_alone(build: Build, models_dir: Path) -> None:
    build(SPECS["clare"])
    from textattack.shared import AttackedText

    from attacks.parts.masked_swaps import MaskedMerge

    merge = MaskedMerge(
        find_resource(BERT, models_dir),
        find_resource("averaged_perceptron_tagger_eng", models_dir),
        50,
    )
    text = AttackedText("good movie , lovely trip")
    assert {t.text.split()[0] for t in merge(text, indices_to_modify=[1])} >= {"bad", "nice"}
    assert merge(text, indices_to_modify=[0]) == []
    changed = text.replace_word_at_index(0, "great")
    assert merge(changed, indices_to_modify=[1]) == []
    assert {t.text.partition(" , ")[0] for t in merge(changed, indices_to_modify=[3])} == {
        "great movie"
    }


def test_bert_attack_changes_at_most_the_share(build: Build) -> None:
    victim, text = Stubborn(), "good movie lovely trip great film nice journey solid actor"
    build("bert-attack(min_similarity=0, max_changed=0.2)").perturb(victim, (text,), 1, seed=0)
    changed = [
        sum(a != b for a, b in zip(text.split(), t.split(), strict=True)) for t in victim.asked
    ]
    assert max(changed) <= 2


def test_the_result_names_the_model(build: Build) -> None:
    assert build("bae").resources[BERT].startswith("data-dir ")
    assert BERT in build(SPECS["a2t"]).resources
    assert "counterfitted-neighbors" not in build(SPECS["a2t"]).resources
