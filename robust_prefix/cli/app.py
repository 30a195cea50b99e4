"""The commands put together."""

from __future__ import annotations

import typer

from robust_prefix.cli import (
    attack,
    average,
    benchmark,
    certify,
    defend,
    demo,
    detect,
    ensemble,
    fit_detectors,
    fit_spelling,
    fit_subspaces,
    fit_synonyms,
    fit_word_scores,
    generate,
    generate_examples,
    listing,
    peft,
    predict,
    report,
    train,
    train_generation,
)

app = typer.Typer(
    name="robust-prefix",
    help="Train prefixes, fit subspaces, defend at inference, attack honestly, read the report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("fit-subspaces")(fit_subspaces.fit)
app.command("fit-synonyms")(fit_synonyms.fit)
app.command("fit-spelling")(fit_spelling.fit)
app.command("fit-word-scores")(fit_word_scores.fit)
app.command("fit-detectors")(fit_detectors.fit)
app.command("import-peft")(peft.import_peft)
app.command("export-peft")(peft.export_peft)
app.command("ensemble")(ensemble.ensemble)
app.command("average")(average.average)
app.command("predict")(predict.predict)
app.command("train-generation")(train_generation.train_generation)
app.command("generate")(generate.generate)
app.command("generate-examples")(generate_examples.generate_examples)
app.command("attack")(attack.attack)
app.command("benchmark")(benchmark.benchmark)
app.command("certify")(certify.certify_run)
app.command("detect")(detect.detect)
app.command("defend")(defend.defend)
app.command("report")(report.report)
app.command("list")(listing.list_names)


def main() -> None:
    """Entry point of ``robust-prefix``."""
    app()
