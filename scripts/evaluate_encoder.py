"""Measure what vectors are good for: models side by side on tasks."""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command


@click.command(cls=Command)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="YAML file of tasks.")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task; repeatable.")
@click.option("--baseline", metavar="MODEL", help="Compare the others with this model. [default: the first]")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for tables, figures as JSON, and a picture.")
@click.option("--costs/--no-costs", default=True, show_default=True, help="Measure speed, size and start-up too.")
@click.option("--resamples", type=click.IntRange(100), default=1_000, show_default=True, help="Samples per interval.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the samples.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def main(
    models: tuple[str, ...],
    data: Path,
    tasks: tuple[str, ...],
    baseline: str | None,
    output: Path | None,
    costs: bool,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure MODELs on the tasks of a YAML file, with confidence intervals.

    A MODEL is [NAME=]FOLDER[:VARIANT]: a checkpoint, an artifact (a VARIANT is a graph such as int8; all for every
    one), a sentence-transformers folder (VARIANT bag for its word embeddings alone), an ONNX embedding model or a
    static model. Or it is package:NAME for a model in an installed package, or bm25.
    """
    import json

    from lengthwise.evaluation.evaluate import evaluate
    from lengthwise.evaluation.report import to_dict, to_markdown, write_report

    evaluation = evaluate(
        models,
        data,
        tasks=tasks or None,
        baseline=baseline,
        costs=costs,
        resamples=resamples,
        seed=seed,
        show_progress=True,
    )
    click.echo(json.dumps(to_dict(evaluation), ensure_ascii=False) if as_json else to_markdown(evaluation))
    if output is not None:
        for path in write_report(evaluation, output):
            click.echo(f"written     {path}", err=True)


if __name__ == "__main__":
    main()
