"""Run every step on a real corpus: fetch it, train a tokenizer, create a model, encode, export, validate.

Each step is the console command that is shown before it. An existing tokenizer and checkpoint are used again, and so
are existing vectors if nothing that they depend on has changed.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click

from lengthwise.cli.common import Command, as_typed, load_run, run_options

UNTRAINED = " (never trained: its vectors do not compare texts)"
CORPUS = ("randfacts", "randfacts/safe.txt")


def fetch_corpus(target: Path) -> None:
    """Copy the corpus from the package that contains it, unless the file exists."""
    from lengthwise.errors import DatasetError
    from lengthwise.util.files import write_atomically

    if target.exists():
        return
    package, file = CORPUS
    try:
        source = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        raise DatasetError(
            f"the package {package}, which contains the corpus, is not installed; run make quickstart"
        ) from None
    write_atomically(target, source.read_bytes())


@click.command(cls=Command)
@run_options
def main(path: Path, overrides: tuple[str, ...]) -> None:
    """Run every step of the run CONFIG (a YAML file) on the facts of the package randfacts."""
    from lengthwise import steps
    from lengthwise.cli import encode_dataset
    from lengthwise.config import CONFIG_FILE, load_encoder_config
    from lengthwise.export.artifact.build import export_run
    from lengthwise.export.validation.report import summary
    from lengthwise.export.validation.run import run_validation

    config, arguments = load_run(path, overrides), f"{path}{as_typed(overrides)}"
    fetch_corpus(Path(config.dataset.path))
    if config.tokenizer.path is None or not Path(config.tokenizer.path).exists():
        _show_command(f"train-tokenizer {arguments}")
        steps.train_run_tokenizer(config)
    if not Path(config.model.path).exists():
        _show_command(f"init-model {arguments}")
        steps.create_run_checkpoint(config)
    _show_command(f"encode {arguments}")
    report = steps.encode_run(config)
    _show_command(f"export {arguments}")
    artifact = export_run(config)
    _show_command(f"validate {artifact.folder} --texts {arguments}")
    validation = run_validation(artifact.folder, texts=steps.sample_texts(config), show_progress=True)

    click.echo(f"\ncorpus      {config.dataset.path}")
    click.echo(f"tokenizer   {config.tokenizer.path}")
    untrained = "" if load_encoder_config(Path(config.model.path) / CONFIG_FILE).trained else UNTRAINED
    click.echo(f"checkpoint  {config.model.path}{untrained}")
    click.echo(encode_dataset.summary(config, report))
    click.echo(f"artifact    {artifact.folder}")
    click.echo(summary(validation))
    click.echo(f"report      {artifact.folder}/validation.md")
    if not validation.passed:
        raise SystemExit(1)


def _show_command(arguments: str) -> None:
    click.echo(f"\n$ lengthwise {arguments}", err=True)


if __name__ == "__main__":
    main()
