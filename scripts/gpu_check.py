"""Check on an NVIDIA GPU: tests, conformance, LSTM probes and rates, recorded in one JSON file and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from lengthwise.cli.common import Command

SECTIONS = ("environment", "tests", "conformance", "probes", "rates", "steps")
RESULTS, PAGE = Path("docs/gpu.json"), Path("docs/benchmarks.md")


@click.command(cls=Command)
@click.option("--section", "names", type=click.Choice(SECTIONS), multiple=True, help="This one alone; may be repeated.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="JSON.")
@click.option(
    "--page", type=click.Path(path_type=Path), default=PAGE, show_default=True, help="Markdown, between its markers."
)
@click.option(
    "--corpus", default="glosses", show_default=True, help="glosses (of WordNet), fortunes, or a run's YAML file."
)
@click.option("--rows", type=click.IntRange(1), help="Texts whose ids are encoded; all of them where it is left out.")
@click.option(
    "--many", type=click.IntRange(1), default=1_000_000, show_default=True, help="Texts that go from file to file."
)
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="Measured runs of each side.")
@click.option("--rehearse", is_flag=True, help="Run the checks on this machine's processor, to see that they work.")
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
    """Check everything that needs a GPU, and keep what is found.

    Sections that do not run now keep what an earlier check found. Without a GPU nothing runs, each row that never did
    reads "not run on a GPU", and the exit code is 1; so it is where something failed or fell short.
    """
    if rehearse and RESULTS.resolve() == results.resolve():
        raise click.BadParameter("give a rehearsal files of its own: its results are no proof", param_hint="--results")
    if rehearse and PAGE.resolve() == page.resolve():
        raise click.BadParameter("give a rehearsal files of its own: its results are no proof", param_hint="--page")
    from lengthwise.cli.gpu.context import Context
    from lengthwise.cli.gpu.record import as_markdown, carried_over, into_page, load_record, save_record, with_section
    from lengthwise.cli.gpu.sections import nothing, run_sections

    record = carried_over(load_record(results), nothing())
    save_record(results, record)
    into_page(page, record)  # before anything runs: a page without a place for the results is better told now
    device: Literal["cpu", "cuda"] | None = "cpu" if rehearse else "cuda" if gpu_is_there() else None
    if device is None:
        click.echo("no NVIDIA GPU here that PyTorch finds: nothing was run; what never was, reads: not run on a GPU")
        click.echo(f"saved       {results}, {page}")
        click_context.exit(1)
    ran = []
    with Context(device, corpus, rows, many, runs, shape="small" if rehearse else "large") as context:
        for section in run_sections(context, names or SECTIONS):
            ran.append(section)
            record = with_section(record, section)
            save_record(results, record)
            into_page(page, record)
    click.echo(f"\n{as_markdown(tuple(ran))}\n\nsaved       {results}, {page}")
    click_context.exit(0 if all(section.passed for section in ran) else 1)


def gpu_is_there() -> bool:
    """Whether PyTorch finds an NVIDIA GPU."""
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
