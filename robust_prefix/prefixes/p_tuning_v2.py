"""P-tuning v2 (Liu et al., ACL 2022, "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning
Universally Across Scales and Tasks").

A deep prefix as in prefix-tuning; what the paper changes is what answers: a randomly initialised
linear head on the first token in place of label words (section 3.3), so that encoders without a
language-model head, and tasks without words for their classes, are served. Its reparameterisation
is a setting here as it is there.
"""

from __future__ import annotations

from robust_prefix.configs import PTuningV2Config
from robust_prefix.prefixes.prefix_tuning import PrefixTuning


class PTuningV2(PrefixTuning):
    """Keys and values in every layer, and a classification head."""

    name = "p-tuning-v2"
    paper = "Liu et al. 2022"
    learns = "keys and values in every layer, and a classification head"
    formula = "2 * layers * kv_heads * head_dim * length + classes * hidden + classes"
    config_type = PTuningV2Config
