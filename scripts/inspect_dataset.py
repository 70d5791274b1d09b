"""How long a dataset's texts are, and what batches they make, before anything is encoded."""

from __future__ import annotations

from pathlib import Path

import click

from _common import Verb, load_run, run_options


@click.command(cls=Verb)
@run_options
def main(config: Path, overrides: tuple[str, ...]) -> None:
    """Tokenize the first shard of the run CONFIG (a YAML file) and show its lengths and its batch plan."""
    import numpy as np

    from pipeline.batching import plan_batches, report_plan
    from pipeline.dataset import open_dataset
    from pipeline.tokenizer import load_tokenizer
    from pipeline.tokens import tokenize_texts

    run = load_run(config, overrides)
    tokenizer, source = load_tokenizer(run.tokenizer.path or run.model.path), open_dataset(run.dataset)
    shard = next(source.shards())
    tokens = tokenize_texts(
        shard.table[run.dataset.text_column],
        tokenizer,
        add_special_tokens=run.tokenizer.add_special_tokens,
        bad_rows="zero",
    )
    most = run.tokenizer.max_length
    lengths = tokens.lengths if most is None else np.minimum(tokens.lengths, most)
    plan = plan_batches(lengths, run.batching)
    report = report_plan(lengths, plan)
    rows = f"{source.num_rows:,}" if source.num_rows is not None else "unknown (a stream)"
    percentiles = " / ".join(f"{value:.0f}" for value in np.percentile(tokens.lengths, (5, 50, 95, 100)))
    click.echo(f"rows        {rows}; the first shard has {len(tokens):,}")
    click.echo(f"flags       {int(tokens.empty.sum()):,} empty, {int(tokens.null.sum()):,} null or not Unicode")
    click.echo(f"tokens      {len(tokens.values):,} in it; {percentiles} a row at p5 / p50 / p95 / most")
    if most is not None:
        click.echo(f"too long    {int((tokens.lengths > most).sum()):,} have more than tokenizer.max_length = {most}")
    click.echo(f"batches     {report.batches:,}; {report.equal_rows:,} rows in batches of one length")
    click.echo(f"padding     {report.padding:.2%} as planned, {report.unplanned_padding:.1%} in dataset order")


if __name__ == "__main__":
    main()
