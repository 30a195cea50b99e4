"""``robust-prefix generate``: sources on stdin, one JSON object a line on stdout."""

from __future__ import annotations

from typing import Annotated

import typer

from robust_prefix.cli.common import (
    DataDirOption,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    SeedOption,
    command,
)
from robust_prefix.cli.output import print_json
from robust_prefix.cli.stdin import read_lines
from robust_prefix.configs import DecodingConfig

DECODING = DecodingConfig()


@command
def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory of train-generation.")],
    beams: Annotated[
        int, typer.Option(help="Beginnings kept at each step; 1 is greedy.")
    ] = DECODING.beams,
    max_new_tokens: Annotated[
        int, typer.Option(help="A text that has not ended by then is cut.")
    ] = DECODING.max_new_tokens,
    length_penalty: Annotated[
        float, typer.Option(help="Exponent of the length that a beam's score is divided by.")
    ] = DECODING.length_penalty,
    data_dir: DataDirOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
) -> None:
    """Write a text for each line of stdin, such as 'name[Fern Steps], kind[loop]'.

    All lines are checked before the first text is written.
    """
    from robust_prefix.generation import PrefixGenerator
    from robust_prefix.specs import build_config

    lines = read_lines()
    given = {"beams": beams, "max_new_tokens": max_new_tokens, "length_penalty": length_penalty}
    decoding = build_config(DecodingConfig, given, "generate")
    generator = PrefixGenerator.from_pretrained(
        run, device=device.value, dtype=dtype.value, data_dir=data_dir
    )
    for source, text in zip(lines, generator.generate(lines, decoding), strict=True):
        print_json({"source": source, "text": text})
