"""A small run, and the command line called inside this process."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from robust_prefix.backbones import CausalBackbone
from robust_prefix.cli.app import app
from robust_prefix.configs import SubspaceConfig
from robust_prefix.fitting import fit_subspaces
from robust_prefix.prefixes import Prefix
from robust_prefix.runs import Run
from robust_prefix.tasks import Task

Cli = Callable[..., Result]

needs_attacks = pytest.mark.skipif(
    importlib.util.find_spec("textattack") is None, reason="the extra 'attacks' is not installed"
)


@pytest.fixture(scope="session")
def pristine_run(
    tmp_path_factory: pytest.TempPathFactory,
    backbone: CausalBackbone,
    model_dir: Path,
    task: Task,
    prefix: Prefix,
) -> Path:
    """A run with subspaces on the tiny model; not to be written to."""
    folder = tmp_path_factory.mktemp("pristine") / "run"
    # the tiny model has 256 positions, the prefix included
    short = dataclasses.replace(task, max_tokens=64)
    spaces = fit_subspaces(backbone, prefix, short, config=SubspaceConfig(threshold=0.6))
    named = dataclasses.replace(prefix, base_model=str(model_dir))
    Run(short, named, spaces, defense="robust-prefix(steps=2)").save(folder)
    return folder


@pytest.fixture
def run_dir(tmp_path: Path, pristine_run: Path) -> Path:
    """A copy of the run to do anything with."""
    return Path(shutil.copytree(pristine_run, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Here and in the processes a test starts: the order of a sum decides its last bits."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is read from this machine's settings and nothing written outside of the test."""
    monkeypatch.setenv("ROBUST_PREFIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ROBUST_PREFIX_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli() -> Cli:
    """Calls a command; what it prints and its exit status come back."""

    def call(*arguments: object, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)

    return call


@pytest.fixture
def refused(cli: Cli) -> Callable[..., str]:
    """Calls a command that must end with status 2, nothing on stdout and one line on stderr."""

    def call(*arguments: object, input: str | bytes | None = None) -> str:
        result = cli(*arguments, input=input)
        assert isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == 2
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("robust-prefix: expected ")
        return lines[0].removeprefix("robust-prefix: ")

    return call
