"""``robust-prefix certify``: how many words may change before an answer does, for certain."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from robust_prefix.cli.common import (
    DataDirOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    RunArgument,
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json, results_folder

if TYPE_CHECKING:
    from robust_prefix.evaluation.records import Record


@command
def certify_run(
    run: RunArgument,
    defense: Annotated[
        str,
        typer.Option(
            help="One with masked-vote: masked-vote(copies=10, mask=0.9); word-scores with method "
            "lists; default is the run's own."
        ),
    ] = "masked-vote",
    split: Annotated[str, typer.Option(help="Which texts: train, dev or test.")] = "test",
    num_examples: Annotated[int, typer.Option(help="Texts drawn from the split.")] = 200,
    method: Annotated[
        str,
        typer.Option(
            help="vote: of the answer itself, without chance; smoothed: of the vote of all masks, "
            "which is estimated; lists: of word-scores, within the word lists it was fitted to."
        ),
    ] = "vote",
    confidence: Annotated[float, typer.Option(help="Of smoothed, for each text.")] = 0.999,
    select: Annotated[int, typer.Option(help="Masks drawn to choose smoothed's answer.")] = 20,
    estimate: Annotated[
        int, typer.Option(help="Masks drawn to count how often it is given.")
    ] = 200,
    attacks: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder that attack or benchmark wrote; adversaries of the same defence are held "
            "against the certificates. May be given several times."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where results go; named after the settings by default.")
    ] = None,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    json: JsonOption = False,
) -> None:
    """Certify answers against substitutions of words; write certificates.csv and summary.json."""
    from robust_prefix.certification import CertifyConfig, certify
    from robust_prefix.classifier import PrefixClassifier
    from robust_prefix.cli.lexical import substitutes_from
    from robust_prefix.data import load_split
    from robust_prefix.errors import ConfigError
    from robust_prefix.evaluation.certified import (
        Certified,
        certificates_csv,
        certified_table,
        summarize,
        tried,
    )
    from robust_prefix.evaluation.sampling import sample_examples
    from robust_prefix.files import check_same, write_json, write_text
    from robust_prefix.progress import progress
    from robust_prefix.runs import Run
    from robust_prefix.specs import build_config

    settings = {"method": method, "confidence": confidence, "select": select}
    config = build_config(CertifyConfig, settings | {"estimate": estimate, "seed": seed}, "certify")
    task = Run.load(run, data_dir).task
    examples = sample_examples(task, load_split(task, split), num_examples, seed)
    classifier = PrefixClassifier.from_pretrained(
        run, defense, device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    model, tested = classifier.model, classifier.defense
    words = classifier.fitted.words
    substitutes = None
    if words is not None and config.method == "lists":
        substitutes = substitutes_from(data_dir, words.config.get("sources"))
    number_format = str(model.backbone.dtype).removeprefix("torch.")
    if attacks and config.method == "smoothed":
        raise ConfigError(
            "expected --attacks with --method vote or lists, got smoothed, whose certificates are "
            "about the vote of all masks and not about the answers that attacks were given"
        )
    records = [
        record
        for folder in attacks or ()
        for record in _records(folder, tested.spec, model.prefix.fingerprint, number_format)
    ]
    if attacks and not records:
        raise ConfigError(
            f"expected records of {tested.spec!r} on this prefix in "
            f"{', '.join(map(str, attacks))}, got none; attack this very defence"
        )
    if out is None:
        name = f"{task.name}-certify-{method}-{tested.spec}-{split}-{num_examples}-seed{seed}"
        out = results_folder("-against-".join([name, *(folder.name for folder in attacks or ())]))
    about = {
        "task": task.name,
        "task_fingerprint": model.task.fingerprint,
        "model": model.backbone.name,
        "prefix": model.prefix.fingerprint,
        "defense": tested.spec,
        "split": split,
        **dataclasses.asdict(config),
        "dtype": number_format,
        "n": len(examples),
        "held_against": [str(folder) for folder in attacks or ()],
    }
    check_same(out / "summary.json", about)
    rows: list[Certified] = []
    texts = [example.fields for example in examples]
    found = certify(model, tested, texts, config, substitutes=substitutes)
    with progress("certifying", len(examples)) as advance:
        for example, certificate in zip(examples, found, strict=True):
            rows.append(Certified(example, certificate))
            advance(len(rows), "")
    summary: dict[str, Any] = {**about, **summarize(rows)}
    if attacks:
        outcome = tried(rows, records, substitutes)
        summary["attacks"] = {
            "attacked": outcome.attacked,
            "inside": outcome.inside,
            "broken": len(outcome.broken),
        }
    write_text(out / "certificates.csv", certificates_csv(rows, task.labels))
    write_json(out / "summary.json", summary)
    console = Console(stderr=json)
    console.print(certified_table(rows))
    console.print(f"\nmedian certified radius {summary['median_radius']}, {len(rows)} texts")
    if attacks:
        console.print(
            f"{outcome.attacked} attacks on texts with a radius; {outcome.inside} adversaries "
            "changed no more words than that of their text allows, and "
            f"{len(outcome.broken)} of them got another answer"
        )
    print(f"certificates: {out / 'certificates.csv'}", file=sys.stderr)
    if json:
        print_json(summary)


def _records(folder: Path, defense: str, prefix: str, dtype: str) -> list[Record]:
    """What attacks on one defended prefix left in a folder.

    Raises:
        ConfigError: they were on a model in another number format, which may answer otherwise.
    """
    from robust_prefix.errors import ConfigError
    from robust_prefix.evaluation.bench import DATABASE
    from robust_prefix.evaluation.store import RecordStore

    with RecordStore(folder / DATABASE) as store:
        records, manifests = store.records(), store.manifests
    formats = {str(m.settings.get("dtype")) for m in manifests if m.prefix == prefix}
    if formats - {dtype}:
        raise ConfigError(
            f"expected attacks in {dtype} in {folder}, got {'/'.join(sorted(formats))}; "
            f"certify with --dtype {sorted(formats - {dtype})[0]}, or attack anew"
        )
    return [record for record in records if (record.defense, record.prefix) == (defense, prefix)]
