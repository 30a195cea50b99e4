"""Prefix, subspace and run files: they come back as they were, or say what is wrong with them."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from robust_prefix.artifacts import load_tensors, save_tensors
from robust_prefix.backbones import CausalBackbone
from robust_prefix.classifier import PrefixClassifier
from robust_prefix.errors import ArtifactError, ConfigError, StorageError
from robust_prefix.prefixes import Prefix, PrefixModel
from robust_prefix.runs import PREFIX_FILE, RUN_FILE, SUBSPACES_FILE, Run
from robust_prefix.subspaces import Subspace, Subspaces
from robust_prefix.synonyms import SynonymClusters
from robust_prefix.tasks import Task

from .conftest import tiny_backbone
from .test_files import contents, file_size_limit

OWN = Task(
    name="own",
    columns=("premise", "hypothesis"),
    labels=("no", "yes"),
    label_words=(" no", " yes"),
    template="{premise} and {hypothesis} ?",
    max_tokens=64,
    splits={"train": "own/train.csv", "dev": "own/dev.jsonl"},
)


def metadata(kind: str, **values: Any) -> dict[str, str]:
    return {"robust_prefix": json.dumps({"kind": kind, "version": 1, **values})}


@pytest.fixture
def spaces(backbone: CausalBackbone, prefix: Prefix) -> Subspaces:
    """One subspace by its basis and one by its complement's."""
    generator = torch.Generator().manual_seed(2)
    hidden = backbone.hidden_size
    basis, _ = torch.linalg.qr(torch.randn(hidden, hidden, generator=generator))
    return Subspaces(
        {
            0: Subspace(torch.randn(hidden, generator=generator), basis[:, :3], False),
            2: Subspace(torch.randn(hidden, generator=generator), basis[:, 9:], True),
        },
        base_fingerprint=backbone.fingerprint,
        prefix_fingerprint=prefix.fingerprint,
        config={"threshold": 0.99, "criterion": "variance"},
    )


@pytest.fixture
def run_dir(tmp_path: Path, prefix: Prefix, spaces: Subspaces) -> Path:
    """A whole run."""
    folder = tmp_path / "run"
    Run(OWN, prefix, spaces, "robust-prefix(steps=2)", {"clean_accuracy": 0.5}).save(folder)
    return folder


def test_a_prefix_comes_back(tmp_path: Path, prefix: Prefix) -> None:
    made = dataclasses.replace(prefix, config={"seed": 1, "words": ["é", None]})
    made.save(tmp_path / "deep" / "a.safetensors")
    again = Prefix.load(tmp_path / "deep" / "a.safetensors")
    assert torch.equal(again.tensor, made.tensor)
    assert again.fingerprint == made.fingerprint
    for name in ("base_model", "base_fingerprint", "config"):
        assert getattr(again, name) == getattr(made, name)


def test_subspaces_come_back(tmp_path: Path, spaces: Subspaces) -> None:
    spaces.save(tmp_path / "a.safetensors")
    again = Subspaces.load(tmp_path / "a.safetensors")
    assert list(again.layers) == [0, 2]
    for layer, subspace in spaces.layers.items():
        assert torch.equal(again.layers[layer].mean, subspace.mean)
        assert torch.equal(again.layers[layer].basis, subspace.basis)
        assert again.layers[layer].rank == subspace.rank
    for name in ("base_fingerprint", "prefix_fingerprint", "config"):
        assert getattr(again, name) == getattr(spaces, name)


def test_a_run_comes_back(run_dir: Path, prefix: Prefix, spaces: Subspaces) -> None:
    """With the places of an own task's data: fit-subspaces and attack start from the run alone."""
    run = Run.load(run_dir, data_dir="data")
    assert run.task == dataclasses.replace(OWN, data_dir=Path("data"))
    assert run.prefix.fingerprint == prefix.fingerprint
    assert run.subspaces is not None
    run.subspaces.check(spaces.base_fingerprint, spaces.prefix_fingerprint)
    assert run.defense == "robust-prefix(steps=2)"
    assert run.measurements == {"clean_accuracy": 0.5}
    assert {path.name for path in run_dir.iterdir()} == {RUN_FILE, PREFIX_FILE, SUBSPACES_FILE}


def test_a_prefix_that_another_training_left_is_named(run_dir: Path, prefix: Prefix) -> None:
    """The accuracy and the default defence in the run's file are of the one before."""
    other = dataclasses.replace(prefix, tensor=prefix.tensor + 1)
    other.save(run_dir / PREFIX_FILE)
    message = f"expected the prefix {prefix.fingerprint} of run.json .* got {other.fingerprint}"
    with pytest.raises(ArtifactError, match=message):
        Run.load(run_dir)


def test_what_another_command_fitted_since_stays(run_dir: Path, prefix: Prefix) -> None:
    """A fit takes hours and ends with what the run is then, not with what it was."""
    clusters = SynonymClusters({"film": "movie"})
    Run.change(run_dir, synonyms=clusters)
    Run.change(run_dir, lambda now: f"{now.defense}+", defense="robust-prefix(steps=3)")
    run = Run.load(run_dir)
    assert run.synonyms == clusters
    assert run.subspaces is not None
    assert run.defense == "robust-prefix(steps=3)+"


def test_what_was_fitted_stays_with_its_prefix(run_dir: Path, prefix: Prefix) -> None:
    """A finished training that is asked for again writes the same prefix, and nothing fitted."""
    Run(OWN, prefix).save(run_dir)
    assert Run.load(run_dir).subspaces is not None


def test_what_was_fitted_to_a_prefix_goes_with_it(run_dir: Path, prefix: Prefix) -> None:
    Run(OWN, dataclasses.replace(prefix, tensor=prefix.tensor + 1)).save(run_dir)
    assert {path.name for path in run_dir.iterdir()} == {RUN_FILE, PREFIX_FILE}


def test_a_run_of_before_splits_were_stored_knows_those_of_a_built_in_task(
    run_dir: Path, prefix: Prefix, task: Task
) -> None:
    Run(task, prefix).save(run_dir)
    values = json.loads((run_dir / RUN_FILE).read_text())
    del values["task"]["splits"]
    (run_dir / RUN_FILE).write_text(json.dumps(values))
    assert Run.load(run_dir).task.splits == task.splits


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9, 0.9999])
@pytest.mark.parametrize("name", [PREFIX_FILE, SUBSPACES_FILE])
def test_a_truncated_file_is_named(run_dir: Path, name: str, share: float) -> None:
    path = run_dir / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        ArtifactError, match=r"got a damaged or foreign one .*make it again"
    ) as caught:
        Run.load(run_dir)
    assert str(path) in str(caught.value)


def write_foreign(path: Path, case: str) -> None:
    good = torch.ones(3, 2, 2, 4, 8)
    if case == "text":
        path.write_text("not a safetensors file at all")
    elif case == "json":
        path.write_text('{"prefix": [1, 2]}')
    elif case == "folder":
        path.mkdir()
    elif case == "foreign":
        save_file({"model.weight": good}, path)
    elif case == "other metadata":
        save_file({"prefix": good}, path, metadata={"format": "pt"})
    elif case == "other kind":
        save_tensors(path, "subspaces", {"prefix": good}, {})
    elif case == "broken metadata":
        save_file({"prefix": good}, path, metadata={"robust_prefix": "not json"})
    elif case == "metadata of another shape":
        save_file({"prefix": good}, path, metadata={"robust_prefix": "[1]"})
    elif case == "newer":
        header = {"robust_prefix": json.dumps({"kind": "prefix", "version": 2})}
        save_file({"prefix": good}, path, metadata=header)
    elif case == "no tensor":
        save_file({"other": good}, path, metadata=metadata("prefix"))
    elif case == "flat":
        save_file({"prefix": good.flatten()}, path, metadata=metadata("prefix"))
    elif case == "nan":
        values = {"base_model": "a", "base_fingerprint": "b", "config": {}}
        save_file({"prefix": good * float("nan")}, path, metadata=metadata("prefix", **values))
    elif case == "no base":
        save_file({"prefix": good}, path, metadata=metadata("prefix", base_model="a"))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nothing", "expected a prefix file at .*, got nothing there"),
        ("folder", "expected a prefix file at"),
        ("text", "damaged or foreign"),
        ("json", "damaged or foreign"),
        ("foreign", r"written by robust-prefix at .*with the tensors \['model.weight'\]"),
        ("other metadata", "written by robust-prefix"),
        ("other kind", "expected a prefix file at .*got 'subspaces'"),
        ("broken metadata", "expected"),
        ("metadata of another shape", "expected"),
        ("newer", "expected format version 1 .*got 2; use the robust-prefix release"),
        ("no tensor", "expected a tensor 'prefix' .*got .*'other'"),
        ("flat", r"expected a tensor 'prefix' .*\(384,\)"),
        ("nan", "expected finite numbers in .*got NaN or infinity"),
        ("no base", "expected 'base_fingerprint' in the metadata"),
    ],
)
def test_a_foreign_prefix_file_is_named(tmp_path: Path, case: str, message: str) -> None:
    path = tmp_path / "a.safetensors"
    write_foreign(path, case)
    with pytest.raises(ArtifactError, match=message) as caught:
        Prefix.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "expected 'complement'"),
        ({"complement": {"0": True}}, "expected '0.mean'"),
        ({"complement": {"first": True}}, "expected"),
        ({"complement": [0]}, "expected"),
    ],
    ids=["no layers", "no tensors", "layer not a number", "layers not a mapping"],
)
def test_foreign_subspaces_are_named(tmp_path: Path, values: Any, message: str) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, "subspaces", {"1.mean": torch.ones(2), "first.mean": torch.ones(2)}, values)
    with pytest.raises(ArtifactError, match=message) as caught:
        Subspaces.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a run directory with run.json at .*; make one with robust-prefix train"),
        ("{", "expected JSON in .*write the file anew"),
        ("{}", "expected 'task'"),
        ("[]", "expected .*run.json"),
        ('{"task": {}, "defense": "none", "measurements": {}}', r"got only \[\] \(in .*run.json"),
        ('{"task": 5, "defense": "none", "measurements": {}}', "expected .*run.json"),
    ],
    ids=["missing", "cut", "empty", "list", "no task", "number"],
)
def test_a_broken_run_file_is_named(run_dir: Path, content: str | None, message: str) -> None:
    if content is None:
        (run_dir / RUN_FILE).unlink()
    else:
        (run_dir / RUN_FILE).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        Run.load(run_dir)


def test_a_run_without_its_prefix_is_named(run_dir: Path) -> None:
    (run_dir / PREFIX_FILE).unlink()
    with pytest.raises(ArtifactError, match=r"expected a prefix file at .*prefix.safetensors"):
        Run.load(run_dir)


def test_an_unknown_zoo_run_is_named() -> None:
    with pytest.raises(ConfigError, match=r"expected a known run in the zoo .*got 'nothing'"):
        Run.load("zoo:nothing")


def test_a_prefix_for_another_model_is_refused(
    backbone: CausalBackbone, tokenizer: PreTrainedTokenizerFast, task: Task, prefix: Prefix
) -> None:
    prefix.check_base(backbone)
    same_shape = tiny_backbone("llama", tokenizer, seed=1)
    message = f"for {same_shape.name} .*one trained on {prefix.base_model} .*load that model"
    with pytest.raises(ArtifactError, match=message):
        PrefixModel(same_shape, task, prefix)
    other_shape = tiny_backbone("gpt2", tokenizer)
    with pytest.raises(ArtifactError, match=r"of shape \(3, 2, 4, 4, 8\) for tiny-gpt2, got \(3"):
        PrefixClassifier(other_shape, task, prefix)


def test_subspaces_of_another_prefix_are_refused(
    spaces: Subspaces, backbone: CausalBackbone
) -> None:
    spaces.check(backbone.fingerprint, spaces.prefix_fingerprint)
    for pair in (("other", spaces.prefix_fingerprint), (backbone.fingerprint, "other")):
        with pytest.raises(ArtifactError, match=r"got ones for .*run robust-prefix fit-subspaces"):
            spaces.check(*pair)


@pytest.mark.parametrize("old", [False, True], ids=["new", "replace"])
def test_a_full_disk_leaves_the_old_run_or_none(
    tmp_path: Path, run_dir: Path, prefix: Prefix, spaces: Subspaces, old: bool
) -> None:
    """Real files that the system refuses to let grow; the library reports it as its own error."""
    if not old:
        shutil.rmtree(run_dir)
    before = contents(tmp_path)
    changed = dataclasses.replace(prefix, tensor=prefix.tensor + 1)
    with file_size_limit(1000), pytest.raises(StorageError, match=r"File too large .*free some"):
        Run(OWN, changed, spaces).save(run_dir)
    assert contents(tmp_path) == before


def test_no_space_while_the_tensors_are_written_leaves_the_old_file(
    tmp_path: Path, prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    prefix.save(path)
    before = contents(tmp_path)

    def full(_: object, destination: Path, metadata: object) -> None:
        Path(destination).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("robust_prefix.artifacts.save_file", full)
    with pytest.raises(StorageError, match=f"to write {path}, got 'No space left on device'"):
        prefix.save(path)
    assert contents(tmp_path) == before


def test_tensors_need_not_be_contiguous(tmp_path: Path) -> None:
    tensor = torch.arange(6.0).reshape(2, 3).T
    save_tensors(tmp_path / "a", "prefix", {"t": tensor, "u": tensor[:1]}, {"x": 1})
    tensors, values = load_tensors(tmp_path / "a", "prefix")
    assert torch.equal(tensors["t"], tensor)
    assert torch.equal(tensors["u"], tensor[:1])
    assert values["x"] == 1


def test_what_bfloat16_keeps_is_stored_in_half_the_space(tmp_path: Path, prefix: Prefix) -> None:
    half = dataclasses.replace(prefix, tensor=prefix.tensor.bfloat16().float())
    assert half.fingerprint != prefix.fingerprint
    for each, stored in ((prefix, torch.float32), (half, torch.bfloat16)):
        each.save(tmp_path / "a.safetensors")
        again = Prefix.load(tmp_path / "a.safetensors")
        assert torch.equal(again.tensor, each.tensor)
        assert again.tensor.dtype == torch.float32
        assert again.fingerprint == each.fingerprint
        tensors, _ = load_tensors(tmp_path / "a.safetensors", "prefix")
        assert tensors["prefix"].dtype == stored
