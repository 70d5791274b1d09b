"""Check that a folder of vectors that several processes wrote is complete, and write its card and manifest."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command, load_run, run_options


@click.command(cls=Command)
@run_options
@click.option("--no-checksums", is_flag=True, help="Do not compare the sha256 of each shard.")
def main(path: Path, overrides: tuple[str, ...], no_checksums: bool) -> None:
    """Check the vectors of the run CONFIG (a YAML file) against its dataset, and write their card and manifest.

    The folder is complete if every row is there, every shard is unchanged, and all have the same columns. A run in one
    process, or on a cluster, does this by itself.
    """
    from lengthwise.run.changes import summarize_changes
    from lengthwise.steps import finalize_run
    from lengthwise.store.records import describe_reuse

    config = load_run(path, overrides)
    manifest = finalize_run(config, verify=not no_checksums)
    flags = ", ".join(f"{manifest[name]:,} {name}" for name in ("empty", "null", "bad", "truncated"))
    checked = "" if no_checksums else ", and their sha256 matches"
    click.echo(
        f"vectors     {config.encode.output}/data: {manifest['rows']:,} rows, {manifest['tokens']:,} tokens ({flags})"
    )
    click.echo(f"complete    all {len(manifest['shards']):,} shards are there{checked}")
    for sentence in describe_reuse(manifest):
        click.echo(f"reused      {sentence}")
    if changes := summarize_changes(config):
        click.echo(f"changes     {changes}")


if __name__ == "__main__":
    main()
