"""The database: durable, exclusive, and true to every character."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from evaluation_fakes import (
    EXAMPLES,
    SwapAttack,
    manifest,
    open_store,
    record,
    systems,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from robust_prefix.errors import ArtifactError, ConfigError, StorageError
from robust_prefix.evaluation import Manifest, Record, RecordStore, evaluate, write_results

HERE = Path(__file__).parent
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates and NUL included


def run_python(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """Start Python with the fakes importable."""
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def stored(folder: Path, *records: Record) -> list[Record]:
    with open_store(folder) as store:
        for one in records:
            store.add(one)
    with RecordStore(folder / "run.sqlite") as store:
        return store.records()


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    assert stored(tmp_path, record()) == [record()]


@settings(max_examples=40, deadline=None)
@given(original=ANY_TEXT, adversarial=st.none() | ANY_TEXT)
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, original: str, adversarial: str | None
) -> None:
    one = record(
        original=(original, "premise"),
        adversarial=None if adversarial is None else (adversarial, "premise"),
    )
    (found,) = stored(tmp_path_factory.mktemp("store"), one)
    assert found == one


def test_a_message_keeps_what_utf8_lacks_as_an_escape(tmp_path: Path) -> None:
    (found,) = stored(tmp_path, record(message="bad \udc80 text\0"))
    assert found.message == "bad \\udc80 text\0"


def test_numbers_are_stored_as_numbers(tmp_path: Path) -> None:
    stored(tmp_path, record(margin_adversarial=None, forward_passes=3))
    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        query = "SELECT {} FROM record".format(
            ", ".join(f"typeof({f.name})" for f in dataclasses.fields(Record))
        )
        kinds = dict(
            zip(
                [f.name for f in dataclasses.fields(Record)],
                connection.execute(query).fetchone(),
                strict=True,
            )
        )
    assert kinds["margin_original"] == kinds["seconds"] == kinds["forward_passes"] == "real"
    assert kinds["label"] == kinds["queries"] == kinds["example"] == kinds["seed"] == "integer"
    assert kinds["margin_adversarial"] == "null"
    assert kinds["original"] == "text"


def test_records_come_in_one_order(tmp_path: Path) -> None:
    ordered = [
        record(example=2),
        record(example=2, role="defense", defense="a", protocol="direct"),
        record(example=2, role="defense", defense="a", protocol="replay"),
        record(example=2, role="control", defense="0"),
        record(example=10),
    ]
    assert stored(tmp_path, *ordered[::-1]) == ordered


def test_a_key_is_taken_once(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert record().key not in store
        store.add(record())
        assert record().key in store
        assert record(seed=8).key not in store
        with pytest.raises(StorageError, match="UNIQUE"):
            store.add(record(outcome="failed"))
        assert len(store) == 1
        assert store.get(record().key) == record()
        assert store.get(record(example=3).key) is None


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    with open_store(tmp_path):
        pass
    with RecordStore(tmp_path / "run.sqlite") as store:
        assert store.manifests == (manifest(),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": "pwws"}, r"expected attack 'swap\(words=all\)'.*got 'pwws'"),
        ({"n": 7}, "expected n 6 .* got 7"),
        ({"defenses": ()}, r"expected defenses \('thesaurus\(words=3\)',\) .* got \(\)"),
        ({"controls": {}}, r"expected controls.thesaurus\(words=3\) \('random.* got None"),
        ({"labels": ("bad", "good")}, "expected labels"),
        ({"settings": {"dtype": "bfloat16"}}, "expected settings.dtype 'float32'.*'bfloat16'"),
        ({"settings": {}}, "expected settings.dtype 'float32' .* got None"),
        ({"seed": 8, "n": 7}, "expected seed 7"),  # the first that differs
    ],
)
def test_another_run(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with open_store(tmp_path):
        pass
    with pytest.raises(ConfigError, match=message) as caught:
        open_store(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_another_schema(tmp_path: Path) -> None:
    with open_store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        connection.execute("UPDATE run SET schema_version = 99")
    with pytest.raises(ConfigError, match=r"expected schema version 3 .* got 99"):
        open_store(tmp_path)


@pytest.mark.parametrize("given_manifest", [None, manifest()], ids=["read", "write"])
@pytest.mark.parametrize("content", [b"no database at all, but long enough " * 40, b"%PDF"])
def test_another_file(tmp_path: Path, content: bytes, given_manifest: Manifest | None) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="expected a run's database"):
        RecordStore(path, given_manifest)
    assert path.read_bytes() == content


def test_another_database(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(ArtifactError, match="another SQLite file"):
        RecordStore(path, manifest())


def test_no_file_to_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="got nothing there"):
        RecordStore(tmp_path / "run.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="expected to open"):
        open_store(tmp_path / "file" / "out")


def test_another_live_process_writes_alone_and_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    holder = run_python(
        """
        import sys
        from robust_prefix.evaluation import Manifest, RecordStore
        from evaluation_fakes import record
        with RecordStore(sys.argv[1], Manifest.from_json(sys.argv[2])) as store:
            store.add(record())
            print("open", flush=True)
            sys.stdin.read()
        """,
        str(path),
        manifest().to_json(),
        stdin=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StorageError, match="in use by another live process"):
            RecordStore(path, manifest())
        with RecordStore(path) as store:
            assert store.records() == [record()]
        holder.kill()
    with RecordStore(path, manifest()) as store:  # the lock died with its holder
        assert len(store) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run.sqlite"]


def test_a_process_killed_for_good_leaves_what_it_added(tmp_path: Path) -> None:
    """kill -9 in the middle of an example; the resumed run writes the bytes of an unbroken one."""
    killed = run_python(
        """
        import os, pathlib, signal, sys
        from evaluation_fakes import EXAMPLES, SwapAttack, open_store, systems
        from robust_prefix.evaluation import evaluate

        class Fatal(SwapAttack):
            def perturb(self, victim, fields, label, seed):
                attempt = super().perturb(victim, fields, label, seed)
                if len(self.seeds) == 8:
                    os.kill(os.getpid(), signal.SIGKILL)
                return attempt

        store = open_store(pathlib.Path(sys.argv[1]))
        evaluate(systems(), Fatal(), EXAMPLES, store, store.manifests[0])
        """,
        str(tmp_path / "killed"),
    )
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    for name in ("killed", "whole"):
        with open_store(tmp_path / name) as store:
            # 7 attacks had ended, and two replays of the examples they belong to
            assert len(store) == (12 if name == "killed" else 0)
            evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
            write_results(store, tmp_path / name)
    for name in ("results.csv", "summary.json", "report.html"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_database_keeps_what_it_has(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add(record())
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageError, match="full"):
            store.add(record(example=2, message="x" * 100_000))
    with RecordStore(tmp_path / "run.sqlite") as store:
        assert store.records() == [record()]


def test_a_full_disk_stops_the_run_and_the_run_resumes(tmp_path: Path) -> None:
    """The system itself refuses: a limit on the size of files, as a full disk would."""
    limited = run_python(
        """
        import pathlib, resource, sys
        from evaluation_fakes import EXAMPLES, SwapAttack, open_store, systems
        from robust_prefix.errors import StorageError
        from robust_prefix.evaluation import evaluate

        with open_store(pathlib.Path(sys.argv[1])) as store:
            size = store.path.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 4096, resource.RLIM_INFINITY))
            try:
                evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
            except StorageError as error:
                print(error)
        """,
        str(tmp_path),
    )
    said, trouble = limited.communicate()
    assert limited.returncode == 0, trouble
    assert said.startswith("expected to write ")
    assert said.count("\n") == 1
    with open_store(tmp_path) as store:
        assert 0 < len(store) < 30
        evaluate(systems(), SwapAttack(), EXAMPLES, store, store.manifests[0])
        assert len(store) == 30


def test_a_database_that_must_not_be_written(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(StorageError, match="readonly"):
            store.add(record())


def test_several_cells_share_a_file(tmp_path: Path) -> None:
    first, second = manifest(), manifest(seed=8)
    one, other = record(example=9), record(seed=8)
    path = tmp_path / "run.sqlite"
    with RecordStore(path, [second, first]) as store:
        for each in (one, other):
            store.add(each)
        assert store.records() == [other, one]  # in the order of the cells
        assert store.records(first) == [one]
    with RecordStore(path) as store:
        assert store.manifests == (second, first)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([7], r"expected the cell '.* seed=8' as in .*got a matrix without it"),
        ([7, 9], "expected seed 8 as in .* got 9"),
        ([7, 8, 8], "expected each cell once"),
    ],
    ids=["fewer", "another", "twice"],
)
def test_another_matrix(tmp_path: Path, seeds: list[int], message: str) -> None:
    path = tmp_path / "run.sqlite"
    RecordStore(path, [manifest(), manifest(seed=8)]).close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=message) as caught:
        RecordStore(path, [manifest(seed=seed) for seed in seeds])
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == before


def test_a_matrix_may_grow(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    grown = [manifest(seed=6), manifest(), manifest(seed=8)]
    with RecordStore(path, manifest()) as store:
        store.add(record())
    with RecordStore(path, grown) as store:
        assert store.records() == [record()]
    with RecordStore(path) as store:
        assert store.manifests == tuple(grown)


def test_side_values(tmp_path: Path) -> None:
    values = {"b": {"found": [1, None, "\udc80"]}, "a": "once"}
    with open_store(tmp_path) as store:
        for key, value in values.items():
            store.put("probe", key, "first")
            store.put("probe", key, value)
        store.put("missing", "a", "no word list")
        assert store.find("probe", "b") == values["b"]
        assert store.find("probe", "c") is None
        assert store.find("state", "b") is None
        store.remove("missing", "a")
        store.remove("missing", "a")
    with RecordStore(tmp_path / "run.sqlite") as store:
        assert list(store.items("probe").items()) == [("a", "once"), ("b", values["b"])]
        assert store.items("missing") == {}


def test_the_first_version_of_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE run (schema_version INTEGER, manifest TEXT)")
        connection.execute("INSERT INTO run VALUES (1, '{}')")
        connection.execute("CREATE TABLE record (task TEXT)")
    for asked in (None, manifest()):
        with pytest.raises(ConfigError, match=r"expected schema version 3 .* got 1; start the run"):
            RecordStore(path, asked)


def test_reading_while_another_writes(tmp_path: Path) -> None:
    """The writer goes on; whoever reads sees what has ended so far."""
    with open_store(tmp_path) as store:
        for example in range(5):
            store.add(record(example=example))
            with RecordStore(store.path) as reader:
                assert len(reader.records()) == example + 1
                with pytest.raises(StorageError):
                    reader.add(record(example=example))  # its key is taken
