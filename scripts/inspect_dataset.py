"""Report the lengths of a dataset's texts and the cost of batching them, before any model runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, load_run, run_options

if TYPE_CHECKING:
    from lengthwise.batching.inspection import Inspection
    from lengthwise.data.dataset import Source


def summary(source: Source, found: Inspection, *, truncate: bool) -> str:
    """The lengths of the first shard's texts, and a line for each way to batch them."""
    import numpy as np

    from lengthwise.batching.inspection import length_percentiles

    rows = f"{source.num_rows:,}" if source.num_rows is not None else "unknown (a stream)"
    at = " / ".join(f"{length:,}" for length in length_percentiles(np.bincount(found.lengths), (5, 50, 95, 100)))
    lines = [
        f"rows        {rows}; the first shard has {len(found.lengths):,}",
        f"flags       {found.empty:,} empty, {found.null:,} null or not Unicode, {found.repeated:,} repeat another row",
        f"tokens      {found.lengths.sum():,} in it; {at} per row at p5 / p50 / p95 / most",
    ]
    if found.max_length is not None:
        verdict = "would be cut" if truncate else "would stop the run; set tokenizer.truncate to cut them"
        lines.append(
            f"too long    {found.too_long:,} have more than tokenizer.max_length = {found.max_length}, and {verdict}"
        )
    cut = found.lengths if found.max_length is None else np.minimum(found.lengths, found.max_length)
    if (found.encoded_lengths != cut).any():
        shorter = int((found.encoded_lengths < cut).sum())
        lines.append(
            f"padding     {found.encoded_lengths.sum():,} tokens are read, with the padding of the model; {shorter:,}"
            " texts are cut to it"
        )
    lines += ["", f"{'batches':<24}{'rows':>12}{'batches':>10}{'padding':>10}{'cost':>8}"]
    for strategy, report in found.strategies:
        figures = f"{report.rows:>12,}{report.batches:>10,}{report.padding:>10.1%}{found.relative_cost(report):>8.1f}"
        lines.append(f"{strategy.name:<24}{figures}")
    return "\n".join(lines)


@click.command(cls=Command)
@run_options
@click.option(
    "--picture", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw the lengths and the batches too."
)
def main(path: Path, overrides: tuple[str, ...], picture: Path | None) -> None:
    """Tokenize the first shard of the run CONFIG (a YAML file), and show its lengths and what its batches cost."""
    from lengthwise.data.dataset import open_run_dataset
    from lengthwise.run.plots import dataset_figure
    from lengthwise.steps import inspect_source
    from lengthwise.util.plots import check_picture_path, save_figure

    config = load_run(path, overrides)
    if picture is not None:
        check_picture_path(picture)
    source = open_run_dataset(config)
    found, tokenization = inspect_source(config, source)
    click.echo(summary(source, found, truncate=tokenization.truncate))
    if picture is not None:
        save_figure(dataset_figure(found), picture)
        click.echo(f"\npicture     {picture}")


if __name__ == "__main__":
    main()
