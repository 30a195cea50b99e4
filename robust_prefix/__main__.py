"""``python -m robust_prefix`` is ``robust-prefix``."""

from robust_prefix.cli import main

main()
