"""Every attack that can run here, on a few sentences against a trained run.

    python scripts/every_attack.py --data-dir DATA --out results/every-attack

Shows that each attack that ``robust-prefix list attacks`` calls runnable does run on real text,
what it finds within a budget, and what it costs. Ends with status 1 where an attack crashed on an
example or was not run though it is runnable. Resumable, as it is one ``robust-prefix benchmark``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from attacks import list_attacks
from robust_prefix.files import write_text

# What keeps a search that has no budget for an example within minutes on a CPU.
SMALL = {"universal-triggers": ", fit_examples=32, num_candidates=10, batches=2"}
COLUMNS = ("attack", "knowledge", "n", "adversaries", "queries", "seconds", "outcome")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", default="zoo:sst2-smollm2-135m")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--num-examples", type=int, default=5)
    parser.add_argument("--max-queries", type=int, default=100, help="an example")
    parser.add_argument("--out", type=Path, default=Path("results/every-attack"))
    parser.add_argument("--quick", action="store_true", help="one sentence, 20 queries")
    arguments = parser.parse_args()
    examples = 1 if arguments.quick else arguments.num_examples
    queries = 20 if arguments.quick else arguments.max_queries

    known = list_attacks(arguments.data_dir)
    names = {info.name: info for info in known if info.runnable}
    specs = [f"{name}(max_queries={queries}{SMALL.get(name, '')})" for name in names]
    matrix = arguments.out / "matrix.toml"
    write_text(
        matrix,
        f"runs = [{json.dumps(arguments.run)}]\n"
        f"attacks = {json.dumps(specs)}\n"
        f'defenses = []\nprotocols = ["direct"]\nnum_examples = {examples}\n',
    )
    command = [sys.executable, "-m", "robust_prefix", "benchmark", str(matrix)]
    options = ["--out", str(arguments.out), "--data-dir", str(arguments.data_dir)]
    status = subprocess.run([*command, *options], check=False, stdout=sys.stderr).returncode
    if status:  # it has said why
        return status

    rows = [_row(info.name, info.knowledge, arguments.out) for info in names.values()]
    missing = [f"{info.name}: {info.command}" for info in known if not info.runnable]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(arguments.out / "attacks.csv", text.getvalue())
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*(str(row[column]) for column in COLUMNS))
    console = Console(stderr=True)
    console.print(table)
    said = f"{len(rows)} of {len(known)} attacks ran; missing here:"
    console.print(said, *missing, sep="\n  ", markup=False)
    return int(any(row["outcome"] != "complete" for row in rows))


def _row(name: str, knowledge: str, out: Path) -> dict[str, Any]:
    """One attack against the undefended run, from the records."""
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        records = [row for row in csv.DictReader(file) if row["attack"].split("(")[0] == name]
    attacked = [row for row in records if row["outcome"] in ("succeeded", "failed")]
    errors = sum(row["outcome"] == "error" for row in records)
    queries = [int(row["queries"]) for row in attacked]
    return {
        "attack": name,
        "knowledge": knowledge,
        "n": len(records),
        "adversaries": sum(row["outcome"] == "succeeded" for row in records),
        "queries": round(sum(queries) / len(queries), 1) if queries else "",
        "seconds": _seconds(name, out),
        "outcome": f"{errors} errors" if errors else "complete" if records else "not run",
    }


def _seconds(name: str, out: Path) -> Any:
    """Mean seconds a record, which is in the database alone: it differs between equal runs."""
    from robust_prefix.evaluation.bench import DATABASE
    from robust_prefix.evaluation.results import Results
    from robust_prefix.evaluation.store import RecordStore

    with RecordStore(out / DATABASE) as store:
        seconds = [
            record.seconds
            for results in Results.read(store)
            for record in results.records
            if record.attack.split("(")[0] == name
        ]
    return round(sum(seconds) / len(seconds), 1) if seconds else ""


if __name__ == "__main__":
    sys.exit(main())
