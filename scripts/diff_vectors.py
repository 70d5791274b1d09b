"""Compare two folders of vectors."""

from __future__ import annotations

import click

from lengthwise.cli.common import Command


@click.command(cls=Command)
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--key", required=True, metavar="COLUMN", help="A kept column whose values are distinct.")
@click.option(
    "--output",
    metavar="FOLDER",
    help="Write added.parquet, removed.parquet and changed.parquet, with vectors, and summary.json.",
)
def main(old: str, new: str, key: str, output: str | None) -> None:
    """Compare the rows of OLD and NEW, folders that `lengthwise encode` wrote, by a key.

    What a vector database has to do to hold NEW instead of OLD: add the rows of added.parquet, replace those of
    changed.parquet, delete those of removed.parquet.
    """
    from lengthwise.run.diff import diff_folders

    found = diff_folders(old, new, key, output)
    click.echo(f"added       {found.added:,} rows")
    click.echo(f"removed     {found.removed:,} rows")
    click.echo(
        f"changed     {found.changed:,} rows: the vector of {found.vectors:,}, kept columns of {found.columns:,}"
    )
    click.echo(f"unchanged   {found.unchanged:,} rows")
    if found.model:
        click.echo(f"model       the vectors are of two models: {found.model}")
    for names, where in ((found.only_old, old), (found.only_new, new)):
        if names:
            click.echo(f"columns     {', '.join(names)}: only in {where}, and not compared")
    if output is not None:
        click.echo(f"written     {output}")


if __name__ == "__main__":
    main()
