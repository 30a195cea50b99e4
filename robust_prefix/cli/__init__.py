"""The command line: one small file a command."""

from robust_prefix.cli.app import main

__all__ = ["main"]
