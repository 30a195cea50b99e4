"""``train`` against an adversary, from a prefix that is there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from robust_prefix.runs import Run

from .conftest import Cli

FLOAT32 = ("--dtype", "float32")


def _with_word_list(tmp_path: Path, data_dir: Path) -> Path:
    """A data folder with the task and three synonyms."""
    lists = tmp_path / "data"
    (lists / "lexical").mkdir(parents=True)
    (lists / "sst2").symlink_to(data_dir / "sst2")
    near = {"film": ["movie"], "good": ["fine", "lovely"]}
    (lists / "lexical" / "counterfitted_neighbors.json").write_text(json.dumps(near))
    return lists


def _trained_with_clusters(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> tuple[object, ...]:
    """``first``, a run whose clusters read three words as others; and the options to go on with,
    the data folder last."""
    data = ("--data-dir", _with_word_list(tmp_path, data_dir))
    common = ("--model", model_dir, *FLOAT32, "--epochs", 1, *data)
    first = cli("train", "--out", tmp_path / "first", *common, "--length", 3)
    assert first.exit_code == 0, first.stderr
    source = ("--sources", "counterfitted-neighbors")
    fitted = cli("fit-synonyms", tmp_path / "first", *data, *source, "--json")
    assert fitted.exit_code == 0, fitted.stderr
    assert json.loads(fitted.stdout)["words"] == 3
    return common


def test_training_against_an_adversary_goes_on_from_a_run(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    common = ("--model", model_dir, "--data-dir", data_dir, *FLOAT32, "--epochs", 1)
    first = cli("train", "--out", tmp_path / "first", *common, "--length", 3)
    assert first.exit_code == 0, first.stderr
    spec = "substitution(edits=typos, variants=2)"
    more = ("--start", tmp_path / "first", "--adversary", spec, "--adversarial-weight", 0.7)
    second = cli("train", "--out", tmp_path / "second", *common, *more)
    assert second.exit_code == 0, second.stderr
    begun, found = (Run.load(tmp_path / name).prefix for name in ("first", "second"))
    assert found.config["training"]["adversary"] == spec
    assert found.config["training"]["adversarial_weight"] == 0.7
    assert found.config["start"] == begun.fingerprint
    assert found.length == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(("--adversary", "freelbb"), "did you mean 'freelb'", id="unknown"),
        pytest.param(("--adversary", "pgd(steps=0)"), "expected a valid steps", id="range"),
        pytest.param(("--adversarial-weight", "1.5"), "adversarial_weight", id="weight"),
        pytest.param(("--start", "nowhere"), "nowhere", id="no such run"),
    ],
)
def test_bad_adversaries_are_found_before_training(
    cli: Cli,
    tmp_path: Path,
    model_dir: Path,
    data_dir: Path,
    arguments: tuple[str, str],
    message: str,
) -> None:
    common = ("--model", model_dir, "--data-dir", data_dir, *FLOAT32)
    said = cli("train", "--out", tmp_path / "run", *common, *arguments)
    assert said.exit_code == 2
    [line] = said.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_synonyms_are_fitted_trained_behind_and_used(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    common = _trained_with_clusters(cli, tmp_path, model_dir, data_dir)
    behind = ("--start", tmp_path / "first", "--defense", "normalize+synonyms")
    second = cli("train", "--out", tmp_path / "second", *common, *behind)
    assert second.exit_code == 0, second.stderr
    run = Run.load(tmp_path / "second")
    assert run.synonyms is not None
    assert run.defense == run.prefix.config["reader"]
    texts = "the film is good\nthe m\u043evie is lovely\n"
    said = cli("predict", tmp_path / "second", *FLOAT32, input=texts)
    one, two = (json.loads(line)["probabilities"] for line in said.stdout.splitlines())
    assert one == two


def test_a_prefix_of_another_task_does_not_bring_its_clusters(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    common = _trained_with_clusters(cli, tmp_path, model_dir, data_dir)
    assert cli("fit-spelling", tmp_path / "first", *common[-2:]).exit_code == 0
    task = dataclasses.replace(Run.load(tmp_path / "first").task, name="other")
    (tmp_path / "other.toml").write_text(
        f'''name = "other"
columns = ["text"]
labels = ["negative", "positive"]
label_words = [" negative", " positive"]
template = "{task.template}"
[splits]
'''
        + "".join(f'{name} = "{tmp_path / "data" / file}"\n' for name, file in task.splits.items())
    )
    for name, expected in (("sst2", True), (str(tmp_path / "other.toml"), False)):
        out = tmp_path / f"second-{expected}"
        arguments = ("--start", tmp_path / "first", "--task", name, "--out", out)
        said = cli("train", *common, *arguments)
        assert said.exit_code == 0, said.stderr
        run = Run.load(out)
        assert (run.synonyms is not None) is expected
        assert (run.vocabulary is not None) is expected


def test_word_scores_are_fitted_and_used(
    cli: Cli, run_dir: Path, model_dir: Path, tmp_path: Path, data_dir: Path
) -> None:
    lists = _with_word_list(tmp_path, data_dir)
    common = ("--data-dir", lists, *FLOAT32)
    source = ("--sources", "counterfitted-neighbors", "--limit", 2, "--json")
    said = cli("fit-word-scores", run_dir, *common, *source)
    assert said.exit_code == 0, said.stderr
    told = json.loads(said.stdout)
    assert told["limit"] == 2
    assert f"{told['dev_guaranteed']:.1%} whatever stands for the words" in said.stderr
    run = Run.load(run_dir)
    assert run.words is not None
    assert {"movie", "lovely"} <= set(run.words.words)
    spec = ("--defense", "normalize(spelling=none)+word-scores")
    said = cli("predict", run_dir, *FLOAT32, *spec, input="the film is good\n")
    assert said.exit_code == 0, said.stderr
    behind = ("--start", run_dir, "--defense", "normalize(spelling=none)+word-scores")
    training = ("train", "--model", model_dir, *behind, *common, "--epochs", 1, "--length", 4)
    training = (*training, "--out", tmp_path / "beside")
    said = cli(
        *training, "--adversary", "substitution(edits=typos, variants=1)+triggers(variants=1)"
    )
    assert said.exit_code == 0, said.stderr
    trained = Run.load(tmp_path / "beside")
    assert trained.words is not None
    assert trained.words.prefix_fingerprint == trained.prefix.fingerprint
    assert trained.words.fingerprint == run.words.fingerprint
    assert trained.defense == trained.prefix.config["reader"]
    said = cli("predict", tmp_path / "beside", *FLOAT32, input="the film is good\n")
    assert said.exit_code == 0, said.stderr
    assert trained.measurements["parameters"]["trainable"] == trained.prefix.tensor.numel()
    less = ("--defense", "word-scores(block_limit=0.1)", "--out", tmp_path / "less")
    said = cli(*training, *less)
    assert said.exit_code == 0, said.stderr
    trained = Run.load(tmp_path / "less")  # beside what the words say when it answers
    beside = run.words.in_blocks_of(0.1).fingerprint
    assert trained.prefix.config["word_scores"][0] == beside != run.words.fingerprint
    clusters = cli("fit-synonyms", run_dir, *common[:2], *source[:2], "--rare", 1)
    assert clusters.exit_code == 0, clusters.stderr
    read = (*training[:-1], tmp_path / "read", "--defense", "word-scores+synonyms")
    read = (*read, "--adversary", "substitution(edits=typos, variants=1)")
    wrong = cli(*read)
    assert (wrong.exit_code, "--behind synonyms" in wrong.stderr) == (2, True)
    said = cli("fit-word-scores", run_dir, *common, *source, "--behind", "synonyms")
    assert said.exit_code == 0, said.stderr
    said = cli(*read)
    assert said.exit_code == 0, said.stderr
    clusters = Run.load(tmp_path / "read").synonyms
    assert clusters is not None
    spec = f"synonyms(table={clusters.fingerprint})"
    assert Run.load(tmp_path / "read").prefix.config["behind_words"] == spec
    fit = ("fit-word-scores", tmp_path / "read", *common, *source)
    again = cli(*fit)
    assert json.loads(again.stdout)["behind"] == spec, again.stderr
    assert json.loads(cli(*fit, "--behind", "none").stdout)["behind"] == "none"
    gate = "word-scores+gate+robust-prefix"
    gated = dataclasses.replace(Run.load(tmp_path / "read"), defense=gate)
    shutil.copytree(tmp_path / "read", tmp_path / "gated")
    gated.save(tmp_path / "gated")
    said = cli("fit-subspaces", tmp_path / "gated", *common)
    assert said.exit_code == 0, said.stderr
    said = cli("fit-word-scores", tmp_path / "gated", *common, *source)
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["behind"] == "none"
    for behind in ("masked-vote", "normalize"):
        wrong = cli(*fit, "--behind", behind)
        assert (wrong.exit_code, "expected --behind with a defence" in wrong.stderr) == (2, True)
    again = cli("fit-word-scores", tmp_path / "beside", *common, *source)
    assert again.exit_code == 0, again.stderr
    said = cli("predict", tmp_path / "beside", *FLOAT32, input="the film is good\n")
    assert said.exit_code == 0, said.stderr
    for spec, message in (
        ("word-scores+masked-vote", "leave masked-vote out"),
        ("word-scores(shuffled=1)", "leave out shuffled="),
        ("synonyms(shuffled=1)", "leave out shuffled="),
    ):
        wrong = cli(*training, "--defense", spec)
        assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
        assert message in wrong.stderr
    wrong = cli("train", "--model", model_dir, "--defense", "word-scores", *training[-2:], *common)
    assert "expected --start with a run that has word scores" in wrong.stderr
    wrong = cli("fit-word-scores", run_dir, *common, "--limit", 0)
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
    assert "valid limit" in wrong.stderr


def test_a_prefix_is_trained_on_masked_text_for_the_vote_that_it_is_used_in(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    common = ("--model", model_dir, "--data-dir", data_dir, *FLOAT32, "--epochs", 1)
    masking = ("--adversary", "masking(low=0.4, high=0.8)", "--adversarial-weight", 1)
    vote = ("--defense", "normalize+masked-vote(copies=3, mask=0.7)")
    said = cli("train", "--out", tmp_path / "run", *common, *masking, *vote, "--length", 3)
    assert said.exit_code == 0, said.stderr
    run = Run.load(tmp_path / "run")
    assert "+masked-vote(copies=3, mask=0.7," in run.defense
    assert run.prefix.config["training"]["adversary"].startswith("masking(low=0.4")
    assert "masked-vote" in run.prefix.config["reader"]
    said = cli("predict", tmp_path / "run", *FLOAT32, input="the film is good\n")
    assert said.exit_code == 0, said.stderr


def test_only_a_defence_that_rewrites_text_can_be_trained_behind(
    cli: Cli, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    common = ("--model", model_dir, "--data-dir", data_dir, *FLOAT32)
    behind = ("--defense", "random-prefix(rms=0.1)")
    said = cli("train", "--out", tmp_path / "run", *common, *behind)
    assert said.exit_code == 2
    assert "expected defences that rewrite text" in said.stderr


def test_a_prefix_is_trained_behind_a_spelling_of_the_task(
    cli: Cli, run_dir: Path, tmp_path: Path, model_dir: Path, data_dir: Path
) -> None:
    run = Run.load(run_dir)
    dataclasses.replace(run, defense="normalize(min_letters=2)").save(run_dir)
    fitted = cli("fit-spelling", run_dir, "--data-dir", data_dir, "--json")
    assert fitted.exit_code == 0, fitted.stderr
    run = Run.load(run_dir)
    assert run.vocabulary is not None
    told = json.loads(fitted.stdout)
    assert (told["words"], told["examples"]) == (len(run.vocabulary.counts), 32)
    assert f"vocabulary={run.vocabulary.fingerprint}" in run.defense  # the default is renewed
    assert "min_letters=2" in run.defense  # and keeps what else it says
    common = ("--data-dir", data_dir, *FLOAT32)
    behind = ("--model", model_dir, "--start", run_dir, "--length", 4, "--epochs", 1)
    for seed, name in enumerate(("spelt", "other")):
        given = (*behind, "--defense", "normalize(min_letters=2)", "--seed", seed)
        said = cli("train", "--out", tmp_path / name, *common, *given)
        assert said.exit_code == 0, said.stderr
    both = (tmp_path / "spelt", tmp_path / "other")
    said = cli("average", *both, "--out", tmp_path / "mean", *common)
    assert said.exit_code == 0, said.stderr
    for name in ("spelt", "mean"):
        found = Run.load(tmp_path / name)
        assert found.vocabulary is not None
        assert found.defense == run.defense
    said = cli("predict", tmp_path / "mean", *FLOAT32, input="the flim is good\n")
    assert said.exit_code == 0, said.stderr
    dataclasses.replace(found, vocabulary=None, defense="none").save(tmp_path / "mean")
    assert Run.load(tmp_path / "mean").vocabulary is None  # of the run that was there
    assert cli("fit-spelling", tmp_path / "nowhere").exit_code == 2
    (tmp_path / "numbers" / "sst2").mkdir(parents=True)
    for split in (data_dir / "sst2").iterdir():
        copy = tmp_path / "numbers" / "sst2" / split.name
        copy.write_text("text,label\n1 2 3,0\n4 5 6,1\n")
    empty = cli("fit-spelling", tmp_path / "spelt", "--data-dir", tmp_path / "numbers")
    assert (empty.exit_code, len(empty.stderr.splitlines())) == (2, 1)
    assert "expected words in the training texts" in empty.stderr
