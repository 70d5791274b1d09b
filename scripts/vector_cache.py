"""Look after a cache of vectors, the folder of encode.cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import CommandGroup, load_run

if TYPE_CHECKING:
    from lengthwise.store.cache_maintenance import CacheReport


@click.group(cls=CommandGroup)
def main() -> None:
    """Look after a cache of vectors, the folder of encode.cache."""


@main.command()
@click.argument("cache", metavar="CACHE")
def stats(cache: str) -> None:
    """Print what CACHE holds, by model."""
    from lengthwise.store.cache_maintenance import inspect_cache

    for report in inspect_cache(cache):
        click.echo(describe(report))


@main.command()
@click.argument("cache", metavar="CACHE")
@click.option(
    "--texts",
    "run",
    metavar="CONFIG",
    type=click.Path(path_type=Path),
    help="Also encode texts of this run (a YAML file) again.",
)
@click.option("--sample", type=click.IntRange(1), default=1_000, show_default=True, help="How many, at random.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Change a setting of CONFIG.")
@click.pass_context
def verify(context: click.Context, cache: str, run: Path | None, sample: int, overrides: tuple[str, ...]) -> None:
    """Read all of CACHE and compare each file's sha256; exit with 1 where one is missing or changed.

    With --texts, some of the run's texts that are in CACHE are encoded again, and each bit of their vectors is
    compared. CACHE may also be a folder of vectors.
    """
    from lengthwise.store.cache_maintenance import inspect_cache

    reports = inspect_cache(cache, verify=True)
    for report in reports:
        click.echo(describe(report))
        for problem in report.damaged:
            click.echo(f"  damaged   {problem}")
    is_damaged = any(report.damaged or report.identity is None for report in reports)
    if is_damaged:
        click.echo(
            f"runs do not use what is damaged; lengthwise cache prune {cache} removes it (a folder of vectors has a run"
            " that encodes it again)"
        )
    if (run is not None and not verify_texts(cache, run, sample, overrides)) or is_damaged:
        context.exit(1)


def verify_texts(cache: str, run: Path, sample: int, overrides: tuple[str, ...]) -> bool:
    """Print what a random sample of a run's texts says; whether all bits are the same, of at least one row."""
    from lengthwise.steps import verify_vectors

    found = verify_vectors(load_run(run, overrides), cache, sample=sample)
    for problem in found.differing:
        click.echo(f"  differs   {problem}")
    differing = f"{len(found.differing):,} differ" if found.differing else "all bits are the same"
    if not found.compared:
        differing = "those that were drawn have no vector that can be compared"
    click.echo(
        f"compared    {found.compared:,} of {found.found:,} rows of {run} that are there ({found.rows:,} in all):"
        f" {differing}"
    )
    return bool(found.compared) and not found.differing


@main.command()
@click.argument("cache", metavar="CACHE")
@click.option("--older-than", "days", type=click.FloatRange(0), metavar="DAYS", help="Also what was written before.")
@click.option("--model", metavar="NAME", help="Also all of a model, by the name that stats prints.")
def prune(cache: str, days: float | None, model: str | None) -> None:
    """Remove what is damaged in CACHE, and what killed runs left there a day ago or earlier."""
    from lengthwise.store.cache_maintenance import prune_cache

    for name, rows in prune_cache(cache, older_than_days=days, model=model).items():
        click.echo(f"{name}  {rows:,} rows removed")


@main.command()
@click.argument("cache", metavar="CACHE")
def compact(cache: str) -> None:
    """Join the small segments of CACHE, and remove what is damaged; runs may use it meanwhile.

    The files of segments that were joined are removed a day later, by the next compact or prune.
    """
    from lengthwise.store.cache_maintenance import compact_cache

    for name, done in compact_cache(cache).items():
        click.echo(f"{name}  {done.joined:,} segments joined into {done.into:,}, {done.damaged:,} damaged ones removed")
        if done.repeated:
            click.echo(f"  repeated  {done.repeated:,} rows that were there twice are there once")


def describe(report: CacheReport) -> str:
    """One line."""
    line = f"{report.name}  {report.rows:,} rows in {report.segments:,} segments, {report.bytes / 1e6:,.1f} MB"
    if report.unrecorded:
        line += f", {report.unrecorded:,} files that killed runs or compact left"
    if report.identity is None:
        return f"{line}: its identity.json is damaged"
    identity = report.identity
    line += f": {identity.get('engine')}, weights {str(identity.get('weights'))[:12]}"
    version = identity.get("versions", {}).get("lengthwise")  # of a cache; a run's folder has none in its identity
    return line if version is None else f"{line}, Lengthwise {version}"


if __name__ == "__main__":
    main()
