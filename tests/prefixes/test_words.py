"""Words near to virtual tokens."""

from __future__ import annotations

import pytest
import torch

from robust_prefix.backbones import CausalBackbone
from robust_prefix.errors import ArtifactError
from robust_prefix.prefixes import Learned, Prefix
from robust_prefix.prefixes.words import nearest_words


def test_a_word_s_own_embedding_is_nearest_to_it(backbone: CausalBackbone, prefix: Prefix) -> None:
    tokens = [backbone.word_token(word) for word in (" good", " dull")]
    soft_tokens = 3 * backbone.embeddings[tokens]
    soft_tokens[1] += 0.1 * backbone.embeddings[tokens[0]]
    learned = Learned.compiled(backbone, soft_tokens, 2)
    found = nearest_words(Prefix.of(learned, backbone, {}), backbone, count=3)
    assert [row[0][0] for row in found] == [" good", " dull"]
    assert found[0][0][1] == pytest.approx(1.0, abs=1e-5)
    assert all(len(row) == 3 and row[0][1] >= row[1][1] >= row[2][1] for row in found)
    by_hand = torch.cosine_similarity(soft_tokens[1], backbone.embeddings).max()
    assert found[1][0][1] == pytest.approx(float(by_hand), abs=1e-5)
    with pytest.raises(ArtifactError, match="a prefix with soft tokens"):
        nearest_words(prefix, backbone)
