"""Compare every runtime of an artifact with PyTorch, and write the verdicts into it."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command, load_run


@click.command(cls=Command)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--runtimes",
    default="default",
    show_default=True,
    help="default (PyTorch, TorchScript, torch.export and onnxruntime), all, or names separated by commas.",
)
@click.option(
    "--texts",
    "path",
    metavar="CONFIG",
    type=click.Path(path_type=Path),
    help="Also compare on texts of this run's dataset.",
)
@click.option("--rows", type=click.IntRange(1), default=256, show_default=True, help="Number of real texts.")
@click.option("--set", "overrides", multiple=True, metavar="KEY.PATH=VALUE", help="Change one setting of --texts.")
def main(artifact: Path, runtimes: str, path: Path | None, rows: int, overrides: tuple[str, ...]) -> None:
    """Compare runtimes with PyTorch on every graph of ARTIFACT.

    Exits with 1 if a runtime fails in a way that is no known limitation of it, or has no graph that passes, or if none
    ran. A cross in parentheses is a known limitation that was measured again.
    """
    if overrides and path is None:
        raise click.UsageError("--set changes a setting of the run that --texts names; give --texts too")
    from lengthwise.export.validation.report import summary
    from lengthwise.export.validation.run import run_validation
    from lengthwise.steps import sample_texts

    texts = None if path is None else sample_texts(load_run(path, overrides), rows)
    validation = run_validation(artifact, runtimes=runtimes, texts=texts, show_progress=True)
    click.echo(summary(validation))
    click.echo(f"report      {artifact}/validation.md")
    if not validation.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
