"""Check an NVIDIA GPU: tests, conformance, LSTM probes and rates, recorded in a JSON file and on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from lengthwise.cli.common import Command

SECTIONS = ("environment", "tests", "conformance", "probes", "rates", "steps")
RESULTS, PAGE = Path("docs/gpu.json"), Path("docs/benchmarks.md")


@click.command(cls=Command)
@click.option(
    "--section", "names", type=click.Choice(SECTIONS), multiple=True, help="Run only this section; repeatable."
)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="JSON.")
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    default=PAGE,
    show_default=True,
    help="Markdown; the results go between its markers.",
)
@click.option(
    "--corpus",
    default="glosses",
    show_default=True,
    help="glosses (of WordNet), fortunes, titles (of Debian's packages), or a run's YAML file.",
)
@click.option("--rows", type=click.IntRange(1), help="Texts whose ids are encoded; by default all.")
@click.option(
    "--many",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Texts that are encoded from file to file.",
)
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="Measured runs of each side.")
@click.option("--rehearse", is_flag=True, help="Run the checks on the CPU, to see that they work.")
@click.pass_context
def main(
    click_context: click.Context,
    names: tuple[str, ...],
    results: Path,
    page: Path,
    corpus: str,
    rows: int | None,
    many: int,
    runs: int,
    rehearse: bool,
) -> None:
    """Check everything that needs a GPU, and record the results.

    Sections that do not run keep the results of an earlier check. Without a GPU nothing runs, a row without a result
    reads "not run on a GPU", and the exit code is 1, as it is if a check failed or missed its target.
    """
    if rehearse and RESULTS.resolve() == results.resolve():
        raise click.BadParameter("name another file: the results of a rehearsal prove nothing", param_hint="--results")
    if rehearse and PAGE.resolve() == page.resolve():
        raise click.BadParameter("name another file: the results of a rehearsal prove nothing", param_hint="--page")
    from lengthwise.cli.gpu.context import Context
    from lengthwise.cli.gpu.record import (
        load_record,
        merge_records,
        record_to_markdown,
        replace_section,
        save_record,
        update_page,
    )
    from lengthwise.cli.gpu.sections import empty_record, run_sections

    record = merge_records(load_record(results), empty_record())
    save_record(results, record)
    update_page(page, record)  # before the checks, to report a page without markers at once
    device: Literal["cpu", "cuda"] | None = "cpu" if rehearse else "cuda" if has_gpu() else None
    if device is None:
        click.echo("PyTorch finds no NVIDIA GPU here: nothing was run; rows without a result read: not run on a GPU")
        click.echo(f"saved       {results}, {page}")
        click_context.exit(1)
    records = []
    with Context(device, corpus, rows, many, runs, shape="small" if rehearse else "large") as context:
        for section in run_sections(context, names or SECTIONS):
            records.append(section)
            record = replace_section(record, section)
            save_record(results, record)
            update_page(page, record)
    click.echo(f"\n{record_to_markdown(tuple(records))}\n\nsaved       {results}, {page}")
    click_context.exit(0 if all(section.passed for section in records) else 1)


def has_gpu() -> bool:
    """Whether PyTorch finds an NVIDIA GPU."""
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
