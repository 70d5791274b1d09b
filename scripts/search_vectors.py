"""Search in a folder of vectors."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lengthwise.cli.common import Command

if TYPE_CHECKING:
    from lengthwise.run.search import Hit

_CELL_CHARS = 100  # of a value in the table; --json shows all of it


@click.command(cls=Command)
@click.argument("vectors", metavar="VECTORS")
@click.argument("queries", metavar="[QUERY]...", nargs=-1)
@click.option("--queries", "file", type=click.Path(path_type=Path), help="A text file with one query per line.")
@click.option("--model", help="Checkpoint or artifact that made the vectors. [default: the one that run.yaml names]")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Rows per query.")
@click.option("--metric", type=click.Choice(["cosine", "dot"]), default="cosine", show_default=True)
@click.option(
    "--where", multiple=True, metavar="CONDITION", help="Such as language=en or, of a number, 'year>=2020'; repeatable."
)
@click.option("--columns", metavar="A,B", help="Kept columns to show. [default: all]")
@click.option(
    "--index",
    is_flag=True,
    help="Use an approximate index in VECTORS/index, which is built where there is none.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per row found.")
def main(
    vectors: str,
    queries: tuple[str, ...],
    file: Path | None,
    model: str | None,
    top: int,
    metric: Any,
    where: tuple[str, ...],
    columns: str | None,
    index: bool,
    as_json: bool,
) -> None:
    """Print the rows of VECTORS, a folder that `lengthwise encode` wrote, that are most similar to each QUERY.

    The search compares every row. With --index it compares the nearest of them, a part that is measured to find nearly
    all of the most similar ones.
    """
    from lengthwise.errors import RowError
    from lengthwise.functions import index_vectors, search

    lines = read_queries(file) if file else {}
    texts = [*queries, *lines.values()]
    if not texts:
        raise click.UsageError("no query; give one or more, or a file of them with --queries")
    shown = None if columns is None else [name.strip() for name in columns.split(",")]
    options = {"model": model, "top": top, "metric": metric, "where": where, "columns": shown, "index": index}
    try:
        found: list[list[Hit]] = search(vectors, texts, **options, show_progress=True)
    except RowError as error:
        places = [*(f"QUERY {number}" for number in range(1, len(queries) + 1)), *(f"{file}, line {n}" for n in lines)]
        raise error.at(places[error.row]) from None
    if index:
        click.echo(index_vectors(vectors, show_progress=False), err=True)
    for query, hits in zip(texts, found, strict=True):
        if as_json:
            for hit in hits:
                line = {"query": query, "score": hit.score, "row": hit.row, "columns": dict(hit.columns)}
                click.echo(json.dumps(line, ensure_ascii=False, default=str))
        else:
            click.echo(f"{query}\n{table(hits)}\n")


def read_queries(file: Path) -> dict[int, str]:
    """The lines of a text file by their numbers, from 1, without the empty ones.

    Raises:
        ConfigError: it cannot be read, or is not text.
    """
    from lengthwise.errors import ConfigError
    from lengthwise.util.text_files import EncodingError, read_text

    try:
        lines = io.StringIO(read_text(file), newline=None)
        return {number: line.removesuffix("\n") for number, line in enumerate(lines, 1) if line.strip()}
    except (OSError, EncodingError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); give a text file with one query per line") from None


def table(hits: Sequence[Hit]) -> str:
    """Score, row and columns of each hit, one line each."""
    if not hits:
        return "  no row was found"
    lines = []
    for hit in hits:
        cells = [" ".join(str(value).split())[:_CELL_CHARS] for value in hit.columns.values()]
        lines.append("  ".join([f"{hit.score:8.4f}", f"row {hit.row:,}", *cells]))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
