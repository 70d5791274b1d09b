"""Encode a run's dataset into a folder of parquet shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, load_run, run_options

if TYPE_CHECKING:
    from lengthwise.config import RunConfig
    from lengthwise.run.growing import Added
    from lengthwise.run.stats import EncodeReport

_INTERVAL = 5.0  # seconds between two looks at a followed folder


def summary(config: RunConfig, report: EncodeReport) -> str:
    """The rows of the folder, and the speed and padding of this run."""
    from lengthwise.run.changes import summarize_changes
    from lengthwise.run.report import describe_precision
    from lengthwise.store.folder import open_folder
    from lengthwise.store.layout import QUARANTINE, REPORT

    totals, encoded = report.totals, report.encoded
    flags = f"{totals.empty:,} empty, {totals.null:,} null, {totals.truncated:,} truncated"
    lines = [f"vectors     {config.encode.output}/data: {totals.rows:,} rows, {totals.tokens:,} tokens ({flags})"]
    if not report.is_complete:
        lines[0] += " in the shards of the parts so far; once all parts are done, run lengthwise finalize"
    if totals.bad:
        where = (
            f"set aside in {config.encode.output}/{QUARANTINE}" if config.encode.bad_rows == "quarantine" else "zeros"
        )
        lines.append(f"bad rows    {totals.bad:,} could not be encoded: {where}")
    if not encoded.shards:
        found = "all shards were there, and their sha256 matches" if totals.rows else "no file with rows has come"
        lines.append(f"speed       nothing to encode: {found}")
    lines += [f"reused      {sentence}" for sentence in report.reuse]
    if saved := report.describe_saved():
        lines.append(f"saved       {saved}")
    if report.computed_tokens:
        plan = encoded.plan
        lines += [
            f"speed       {report.tokens_per_second:,.0f} tokens/s with {report.engine}"
            f" ({report.computed_tokens:,} tokens in {report.seconds:.1f} s, reading and writing included)",
            f"padding     {plan.padding:.2%} of {plan.cells:,} computed cells, in {plan.batches:,} batches;"
            f" in dataset order it would be {encoded.unplanned.padding:.1%}",
        ]
    if encoded.repeated:
        lines.append(f"repeats     {encoded.repeated:,} rows had the ids of another row, and share its vector")
    if precision := describe_precision(config, report):
        lines.append(f"precision   {precision}")
    if report.is_complete and (changes := summarize_changes(config)):
        lines.append(f"changes     {changes}")
    folder = open_folder(config.encode.output)
    if report.is_complete and folder.read(REPORT) is not None:
        lines.append(f"report      {folder.location(REPORT)}")
    return "\n".join(lines)


def _show_added(added: Added) -> None:
    name = ", ".join(added.names) or "shards that were missing"
    click.echo(f"added       {name}: {added.rows:,} rows in {added.seconds:.1f} s; {added.total:,} rows in all")


@click.command(cls=Command)
@run_options
@click.option("--fresh", is_flag=True, help="Start over: remove the shards of any earlier run.")
@click.option("--cluster", metavar="local|ADDRESS", help="Encode on a Ray cluster; see the settings cluster.*.")
@click.option("--shard-index", type=int, metavar="I", help="Encode part I, from 0, of a run in several processes.")
@click.option("--num-shards", type=int, metavar="N", help="How many parts there are; then run lengthwise finalize.")
@click.option(
    "--plan", is_flag=True, help="With encode.append: record the rows that are new, for the parts to encode, and end."
)
@click.option("--follow", is_flag=True, help="Go on, and encode each file that comes into the folder dataset.path.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --follow: between two looks at the folder, 5 by default. A file is read once unchanged for so long.",
)
@click.option(
    "--idle-exit",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --follow: end when no file has come for so long.",
)
def main(
    path: Path,
    overrides: tuple[str, ...],
    fresh: bool,
    cluster: str | None,
    shard_index: int | None,
    num_shards: int | None,
    plan: bool,
    follow: bool,
    interval: float | None,
    idle_exit: float | None,
) -> None:
    """Encode the dataset of the run CONFIG (a YAML file) into parquet shards below encode.output."""
    from lengthwise.steps import encode_run, follow_run, plan_run
    from lengthwise.store.parts import Part
    from lengthwise.util.system import return_freed_memory

    if (shard_index is None) != (num_shards is None):
        raise click.UsageError("--shard-index and --num-shards go together: part I of N")
    if shard_index is not None and cluster is not None:
        raise click.UsageError("--cluster divides the run itself; leave --shard-index and --num-shards out")
    if follow and (cluster is not None or shard_index is not None):
        raise click.UsageError("--follow is for one process; leave --cluster, --shard-index and --num-shards out")
    if plan and (follow or cluster is not None or shard_index is not None):
        raise click.UsageError("--plan comes before the parts; leave --follow, --cluster and --shard-index out")
    for option, seconds in (("--interval", interval), ("--idle-exit", idle_exit)):
        if seconds is not None and not follow:
            raise click.UsageError(f"{option} goes with --follow")
    config = load_run(path, (*overrides, "encode.append=true") if follow else overrides)
    return_freed_memory()
    if follow:
        seconds = _INTERVAL if interval is None else interval
        report = follow_run(config, interval=seconds, idle_exit=idle_exit, fresh=fresh, on_added=_show_added)
        click.echo(summary(config, report))
        return
    if plan:
        planned = plan_run(config, fresh=fresh)
        click.echo(
            f"planned     {config.encode.output}: {planned.rows:,} rows in {planned.shards:,} shards,"
            f" {planned.pending:,} of which the parts have to encode (--shard-index); then run lengthwise finalize"
        )
        return
    part = None if shard_index is None or num_shards is None else Part(shard_index, num_shards)
    click.echo(summary(config, encode_run(config, part=part, cluster=cluster, fresh=fresh)))


if __name__ == "__main__":
    main()
