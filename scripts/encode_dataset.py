"""Encode a run's dataset into a folder of parquet shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, load_run, run_options

if TYPE_CHECKING:
    from lengthwise.config import RunConfig
    from lengthwise.run.cluster import OpenEngine
    from lengthwise.run.stats import EncodeReport
    from lengthwise.store.parts import Part


def encode(
    run: RunConfig, *, part: Part | None = None, cluster: str | None = None, fresh: bool = False
) -> EncodeReport:
    """Encode what is not encoded yet, and write a report of it beside the vectors."""
    from lengthwise.data.dataset import open_dataset
    from lengthwise.run.local import encode_dataset
    from lengthwise.run.report import write_report

    source, open_engine = open_dataset(run.dataset), engine_opener(run)
    if cluster is None:
        engine, tokenizer = open_engine(run, None)
        if not engine.config.trained:
            click.echo(f"note: the encoder was never trained (seed {engine.config.seed})", err=True)
        report = encode_dataset(run, source, tokenizer, engine, part=part, fresh=fresh)
    else:
        from lengthwise.run.cluster import encode_on_cluster

        report = encode_on_cluster(run, source, open_engine, cluster, fresh=fresh)
    write_report(run.encode.output, run, report)
    return report


def engine_opener(run: RunConfig) -> OpenEngine:
    """What opens the run's engine: PyTorch on a checkpoint, or onnxruntime, without PyTorch, on an artifact."""
    if run.encode.engine == "onnx":
        from lengthwise.export.artifact.engine import open_onnx

        return open_onnx
    from lengthwise.encoder.torch_engine import open_torch

    return open_torch


def summary(run: RunConfig, report: EncodeReport) -> str:
    """What is in the folder, and what this run measured."""
    from lengthwise.run.report import describe_precision
    from lengthwise.store.folder import open_folder
    from lengthwise.store.layout import QUARANTINE, REPORT

    totals, encoded = report.totals, report.encoded
    flags = f"{totals.empty:,} empty, {totals.null:,} null, {totals.truncated:,} truncated"
    lines = [f"vectors     {run.encode.output}/data: {totals.rows:,} rows, {totals.tokens:,} tokens ({flags})"]
    if not report.is_complete:
        lines[0] += " in the shards that this part knows of; once all parts are done, run scripts/finalize_vectors.py"
    if totals.bad:
        where = f"set aside in {run.encode.output}/{QUARANTINE}" if run.encode.bad_rows == "quarantine" else "zeros"
        lines.append(f"bad rows    {totals.bad:,} could not be encoded: {where}")
    if not encoded.shards:
        lines.append("speed       nothing to encode: all shards were there, and their sha256 is right")
    if encoded.tokens:
        plan = encoded.plan
        lines += [
            f"speed       {report.tokens_per_second:,.0f} tokens/s with {report.engine}"
            f" ({encoded.tokens:,} tokens in {report.seconds:.1f} s, reading and writing included)",
            f"padding     {plan.padding:.2%} of {plan.cells:,} computed cells, in {plan.batches:,} batches;"
            f" in dataset order it would be {encoded.unplanned.padding:.1%}",
        ]
    if encoded.repeated:
        lines.append(f"repeats     {encoded.repeated:,} rows had the ids of another row, and its vector")
    if precision := describe_precision(run, report):
        lines.append(f"precision   {precision}")
    folder = open_folder(run.encode.output)
    if report.is_complete and folder.read(REPORT) is not None:
        lines.append(f"report      {folder.location(REPORT)}")
    return "\n".join(lines)


@click.command(cls=Command)
@run_options
@click.option("--fresh", is_flag=True, help="Start over: remove the shards that are there, whatever run they are of.")
@click.option("--cluster", metavar="local|ADDRESS", help="Encode on a Ray cluster; see the settings cluster.*")
@click.option("--shard-index", type=int, metavar="I", help="Encode part I, from 0, of a run in several processes.")
@click.option("--num-shards", type=int, metavar="N", help="How many parts there are; then run finalize_vectors.py.")
def main(
    config: Path,
    overrides: tuple[str, ...],
    fresh: bool,
    cluster: str | None,
    shard_index: int | None,
    num_shards: int | None,
) -> None:
    """Encode the dataset of the run CONFIG (a YAML file) into parquet shards below encode.output."""
    from lengthwise.store.parts import Part

    if (shard_index is None) != (num_shards is None):
        raise click.UsageError("--shard-index and --num-shards go together: part I of N")
    if shard_index is not None and cluster is not None:
        raise click.UsageError("--cluster divides the run itself; leave --shard-index and --num-shards out")
    run = load_run(config, overrides)
    part = None if shard_index is None or num_shards is None else Part(shard_index, num_shards)
    click.echo(summary(run, encode(run, part=part, cluster=cluster, fresh=fresh)))


if __name__ == "__main__":
    main()
