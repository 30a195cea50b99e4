"""What all commands share: options, logging, and errors as one line with exit status 2."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

import typer

from robust_prefix.errors import RobustPrefixError

P = ParamSpec("P")
R = TypeVar("R")


class Device(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Dtype(StrEnum):
    """What the layers compute in; auto is measured once on a machine."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or zoo:NAME.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything drawn at random.")
]
DeviceOption = Annotated[Device, typer.Option(help="Where the model runs.")]
DtypeOption = Annotated[
    Dtype, typer.Option(help="Number format of the layers; auto is measured once on a machine.")
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(help="Folder with the tasks' data and word lists.", envvar="ROBUST_PREFIX_DATA"),
]
DefenseOption = Annotated[
    str, typer.Option(help="Name and settings: robust-prefix(steps=5); default is the run's own.")
]
MovingAverageOption = Annotated[
    float,
    typer.Option(
        help="Keep a moving average of the weights; the share that stays in a step, such as 0.998. "
        "0: none."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the summary as one JSON line on stdout, last.")
]


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Log to stderr; turn the project's errors and Ctrl-C into one line and exit status 2."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        quiet_libraries()
        try:
            return function(*args, **kwargs)
        except RobustPrefixError as error:
            line = " ".join(str(error).split())
            print(f"robust-prefix: {line}", file=sys.stderr)
        except KeyboardInterrupt:
            print(
                "robust-prefix: stopped by Ctrl-C; what was written is whole, and a training or an "
                "attack goes on where it was with the same command",
                file=sys.stderr,
            )
        except BrokenPipeError:
            # The reader of our output went away (``| head``): nothing left to say to it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            # A full disk or a folder that may not be written to, met inside a library.
            print(f"robust-prefix: expected to read and write files, got {error}", file=sys.stderr)
        raise typer.Exit(2)

    return run


def quiet_libraries() -> None:
    """Log to stderr what this project has to say, and nothing of what its libraries say."""
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for package in ("robust_prefix", "attacks"):
        logging.getLogger(package).setLevel(logging.INFO)
    # It tells of each try to reach the Hub, twice; the error that comes of it is told once.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    # Read by transformers and datasets when they are first imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=SyntaxWarning)
    warnings.filterwarnings("ignore", message="mtime may not be reliable")
