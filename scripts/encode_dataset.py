"""Encode a run's dataset into a folder of parquet shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from _common import Verb, load_run, run_options

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.encode import EncodeReport


def encode(run: RunConfig) -> EncodeReport:
    """Encode what is not encoded yet."""
    from pipeline.checkpoint import load_run_model, weights_fingerprint
    from pipeline.dataset import open_dataset
    from pipeline.encode import encode_dataset
    from pipeline.encoder import TorchEngine

    source = open_dataset(run.dataset)
    encoder, tokenizer = load_run_model(run)
    if not encoder.config.trained:
        click.echo(f"note: the encoder was never trained (seed {encoder.config.seed})", err=True)
    weights = weights_fingerprint(encoder)
    return encode_dataset(run, source, tokenizer, TorchEngine(encoder, run.encode.device), weights)


def summary(run: RunConfig, report: EncodeReport) -> str:
    """What is in the folder, and what this run measured."""
    flags = f"{report.empty:,} empty, {report.null:,} null, {report.truncated:,} truncated"
    lines = [
        f"vectors     {run.encode.output}/data: {report.rows:,} rows, {report.tokens:,} tokens ({flags})",
    ]
    if report.encoded_tokens:
        plan = report.plan
        lines.append(
            f"speed       {report.tokens_per_second:,.0f} tokens/s on {run.encode.device}"
            f" ({report.encoded_tokens:,} tokens in {report.seconds:.1f} s, reading and writing included)"
        )
        lines.append(
            f"padding     {plan.padding:.2%} of {plan.padded_cells:,} cells, {plan.batches:,} batches"
            f" ({plan.equal_rows / plan.rows:.1%} of rows in batches of one length);"
            f" in dataset order it would be {plan.unplanned_padding:.1%}"
        )
    if not report.encoded_shards:
        lines.append("speed       nothing to encode: all shards were there, and their sha256 is right")
    return "\n".join(lines)


@click.command(cls=Verb)
@run_options
def main(config: Path, overrides: tuple[str, ...]) -> None:
    """Encode the dataset of the run CONFIG (a YAML file) into parquet shards below encode.output."""
    run = load_run(config, overrides)
    click.echo(summary(run, encode(run)))


if __name__ == "__main__":
    main()
