"""Check that a folder of vectors that several processes wrote is complete, and say so in it."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command, load_run, run_options


@click.command(cls=Command)
@run_options
@click.option("--no-checksums", is_flag=True, help="Believe that the shards are as they were written.")
def main(config: Path, overrides: tuple[str, ...], no_checksums: bool) -> None:
    """Check the vectors of the run CONFIG (a YAML file) against its dataset, and write their card and manifest.

    Every row is there, every shard is what was written, all have the same columns: then the folder is complete. A run
    in one process, or on a cluster, ends like this by itself.
    """
    from lengthwise.data.dataset import open_dataset
    from lengthwise.run.finalize import finalize_folder

    run = load_run(config, overrides)
    manifest = finalize_folder(run, open_dataset(run.dataset), verify=not no_checksums)
    flags = ", ".join(f"{manifest[name]:,} {name}" for name in ("empty", "null", "bad", "truncated"))
    checked = "" if no_checksums else ", and their sha256 is right"
    click.echo(
        f"vectors     {run.encode.output}/data: {manifest['rows']:,} rows, {manifest['tokens']:,} tokens ({flags})"
    )
    click.echo(f"complete    all {len(manifest['shards']):,} shards are there{checked}")


if __name__ == "__main__":
    main()
