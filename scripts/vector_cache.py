"""Look after a cache of vectors, the folder of encode.cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import CommandGroup

if TYPE_CHECKING:
    from lengthwise.store.cache import CacheReport


@click.group(cls=CommandGroup)
def main() -> None:
    """Look after a cache of vectors, the folder of encode.cache."""


@main.command()
@click.argument("cache", metavar="CACHE")
def stats(cache: str) -> None:
    """Print what CACHE holds, by model."""
    from lengthwise.store.cache import inspect_cache

    for report in inspect_cache(cache):
        click.echo(describe(report))


@main.command()
@click.argument("cache", metavar="CACHE")
@click.pass_context
def verify(context: click.Context, cache: str) -> None:
    """Read all of CACHE and compare each file's sha256; exit with 1 where one is missing or changed.

    Whether the vectors are those that the model computes here is compared by each run that uses them.
    """
    from lengthwise.store.cache import inspect_cache

    reports = inspect_cache(cache, verify=True)
    for report in reports:
        click.echo(describe(report))
        for problem in report.damaged:
            click.echo(f"  damaged   {problem}")
    if any(report.damaged or report.identity is None for report in reports):
        click.echo(f"lengthwise cache prune {cache} removes what is damaged; runs do not use it")
        context.exit(1)


@main.command()
@click.argument("cache", metavar="CACHE")
@click.option("--older-than", "days", type=click.FloatRange(0), metavar="DAYS", help="Also what was written before.")
@click.option("--model", metavar="NAME", help="Also all of a model, by the name that stats prints.")
def prune(cache: str, days: float | None, model: str | None) -> None:
    """Remove what is damaged in CACHE, and what killed runs left there a day ago or earlier."""
    from lengthwise.store.cache import prune_cache

    for name, rows in prune_cache(cache, older_than_days=days, model=model).items():
        click.echo(f"{name}  {rows:,} rows removed")


def describe(report: CacheReport) -> str:
    """One line."""
    line = f"{report.name}  {report.rows:,} rows in {report.segments:,} segments, {report.bytes / 1e6:,.1f} MB"
    if report.unrecorded:
        line += f", {report.unrecorded:,} files that killed runs left"
    if report.identity is None:
        return f"{line}: its identity.json is damaged"
    identity = report.identity
    lengthwise = identity.get("versions", {}).get("lengthwise")
    return f"{line}: {identity.get('engine')}, weights {str(identity.get('weights'))[:12]}, Lengthwise {lengthwise}"


if __name__ == "__main__":
    main()
