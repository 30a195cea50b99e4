"""``import-peft`` and ``export-peft``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robust_prefix.runs import RUN_FILE, Run

from .conftest import Cli

FLOAT32 = ("--dtype", "float32")


def test_out_and_in_again(
    cli: Cli, tmp_path: Path, pristine_run: Path, data_dir: Path, model_dir: Path
) -> None:
    exported = cli("export-peft", pristine_run, "--out", tmp_path / "peft", "--json")
    assert exported.exit_code == 0, exported.stderr
    told = json.loads(exported.stdout.splitlines()[-1])
    assert told["peft_type"] == "PREFIX_TUNING"
    assert told["template"] in exported.stderr
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model_dir)

    out = tmp_path / "run"
    imported = cli("import-peft", tmp_path / "peft", "--out", out, *FLOAT32, "--json")
    assert imported.exit_code == 0, imported.stderr
    assert "not measured" in imported.stderr
    before, after = Run.load(pristine_run), Run.load(out)
    assert torch.equal(after.prefix.tensor, before.prefix.tensor)
    assert after.prefix.base_fingerprint == before.prefix.base_fingerprint
    assert after.measurements["parameters"]["trainable"] == before.prefix.tensor.numel()

    # of an own task nothing but its words is needed
    definition = Run.load(pristine_run).task.to_dict()
    (tmp_path / "own.toml").write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in definition.items())
    )
    own = ("--task", tmp_path / "own.toml", "--out", tmp_path / "own", *FLOAT32)
    imported = cli("import-peft", tmp_path / "peft", *own)
    assert imported.exit_code == 0, imported.stderr
    assert "not measured" in imported.stderr

    more = ("--out", tmp_path / "measured", "--data-dir", data_dir, *FLOAT32, "--json")
    measured = cli("import-peft", tmp_path / "peft", *more)
    assert measured.exit_code == 0, measured.stderr
    assert json.loads(measured.stdout.splitlines()[-1])["clean_accuracy"]["n"] == 32


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        pytest.param({"peft_type": "LORA"}, (), "got 'LORA'", id="lora"),
        pytest.param({"base_model_name_or_path": None}, (), "name it with --model", id="no base"),
        pytest.param({}, ("--task", "sst3"), "did you mean 'sst2'", id="task"),
        pytest.param({}, ("--task", "own.toml"), "label word ' extraordinary'", id="label word"),
    ],
)
def test_what_cannot_be_imported(
    cli: Cli,
    refused: Callable[..., str],
    tmp_path: Path,
    pristine_run: Path,
    change: dict[str, object],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert cli("export-peft", pristine_run, "--out", tmp_path / "peft").exit_code == 0
    path = tmp_path / "peft" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (tmp_path / "own.toml").write_text(
        'name = "own"\ncolumns = ["text"]\nlabels = ["a", "b"]\n'
        'label_words = [" extraordinary", " good"]\ntemplate = "{text} is ?"\n'
    )
    command = ("import-peft", tmp_path / "peft", "--out", tmp_path / "run", *FLOAT32, *arguments)
    assert message in refused(*command)
    assert not (tmp_path / "run" / RUN_FILE).exists()


def test_no_run_to_export(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "a run directory" in refused("export-peft", tmp_path / "none", "--out", tmp_path / "p")
