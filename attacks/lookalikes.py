"""Letters that look alike."""

from __future__ import annotations

# Latin letters and their doubles in other scripts, as Unicode's list of confusables (UTS #39) has
# them. Letters all: a sign such as "@" for "a" would cut the word in two for TextAttack.
LOOKALIKES = dict(
    zip(
        "acdeghijlnopqsuvwxy" + "ABCEHIJKMOPSTXY",
        "\u0430\u0441\u0501\u0435\u0261\u04bb\u0456\u0458\u04cf\u0578\u043e\u0440\u051b\u0455\u057d"
        "\u0475\u051d\u0445\u0443"
        "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u0425\u04ae",
        strict=True,
    )
)
