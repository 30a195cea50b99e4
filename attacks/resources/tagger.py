"""NLTK's part-of-speech tagger, from the place that a result names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from nltk.tag.perceptron import PerceptronTagger

from attacks.resources.base import Found
from attacks.resources.nltk_data import nltk_root

# The universal tags (Petrov et al. 2012, https://arxiv.org/abs/1104.2086) of the Penn Treebank's,
# as NLTK's en-ptb.map has them.
UNIVERSAL_TAGS = {
    penn: universal
    for universal, listed in {
        ".": "! # $ '' ( ) , -LRB- -RRB- . : ? ``",
        "ADJ": "JJ JJR JJRJR JJS JJ|RB JJ|VBG",
        "ADP": "IN IN|RP",
        "ADV": "RB RBR RBS RB|RP RB|VBG WRB",
        "CONJ": "CC",
        "DET": "DT EX PDT WDT",
        "NOUN": "NN NNP NNPS NNS NN|NNS NN|SYM NN|VBG NP",
        "NUM": "CD",
        "PRON": "PRP PRP$ PRP|VBP WP WP$",
        "PRT": "POS PRT RP TO",
        "VERB": "MD VB VBD VBD|VBN VBG VBG|NN VBN VBP VBP|TO VBZ VP",
        "X": "CD|RB FW LS RN SYM UH WH",
    }.items()
    for penn in listed.split()
}


def universal_tags(found: Found, words: Sequence[str]) -> list[str]:
    """The universal tag of each of ``words``, which stand in this order in a text."""
    return [UNIVERSAL_TAGS.get(tag, "X") for _, tag in load_tagger(found).tag(list(words))]


@lru_cache(maxsize=2)
def load_tagger(found: Found) -> Any:
    """NLTK's tagger of a found resource, loaded once; it tags with the Penn Treebank's tags."""
    tagger = PerceptronTagger(load=False)
    tagger.load_from_json("eng", nltk_root(found))
    return tagger
