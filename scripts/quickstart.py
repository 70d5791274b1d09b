"""The whole way on a real corpus: fetch, train a tokenizer, make a model, encode, export, validate.

Each step is the script of the same name on configs/quickstart.yaml. A tokenizer and a checkpoint that are already
there are used again, and so are the vectors, if nothing they depend on has changed.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click

from lengthwise.cli.common import Command, as_typed, load_run, run_options

UNTRAINED = " (never trained: its vectors do not compare texts)"
CORPUS = ("randfacts", "randfacts/safe.txt")


def fetch_corpus(target: Path) -> None:
    """Copy the corpus out of the package that brings it; a file that is already there is left as it is."""
    from lengthwise.errors import DatasetError
    from lengthwise.util.files import write_atomically

    if target.exists():
        return
    package, file = CORPUS
    try:
        source = Path(str(distribution(package).locate_file(file)))
    except PackageNotFoundError:
        raise DatasetError(
            f"the package {package}, which brings the corpus, is not installed; run make quickstart"
        ) from None
    write_atomically(target, source.read_bytes())


@click.command(cls=Command)
@run_options
def main(config: Path, overrides: tuple[str, ...]) -> None:
    """Run every step of the run CONFIG on the facts of the package randfacts."""
    from lengthwise.api import encode_run
    from lengthwise.cli import encode_dataset, init_model, train_tokenizer
    from lengthwise.cli.validate_export import first_texts
    from lengthwise.config import CONFIG_FILE, load_encoder_config
    from lengthwise.export.artifact.build import export_run
    from lengthwise.export.validation.report import summary
    from lengthwise.export.validation.run import run_validation

    run, typed = load_run(config, overrides), f"{config}{as_typed(overrides)}"
    fetch_corpus(Path(run.dataset.path))
    if run.tokenizer.path is None or not Path(run.tokenizer.path).exists():
        _say(f"python scripts/train_tokenizer.py {typed}")
        train_tokenizer.train(run)
    if not Path(run.model.path).exists():
        _say(f"python scripts/init_model.py {typed}")
        init_model.init(run)
    _say(f"python scripts/encode_dataset.py {typed}")
    report = encode_run(run)
    _say(f"python scripts/export_model.py {typed}")
    artifact = export_run(run)
    _say(f"python scripts/validate_export.py {artifact.folder} --texts {typed}")
    validation = run_validation(artifact.folder, texts=first_texts(run), show_progress=True)

    click.echo(f"\ncorpus      {run.dataset.path}")
    click.echo(f"tokenizer   {run.tokenizer.path}")
    untrained = "" if load_encoder_config(Path(run.model.path) / CONFIG_FILE).trained else UNTRAINED
    click.echo(f"checkpoint  {run.model.path}{untrained}")
    click.echo(encode_dataset.summary(run, report))
    click.echo(f"artifact    {artifact.folder}")
    click.echo(summary(validation))
    click.echo(f"report      {artifact.folder}/validation.md")
    if not validation.passed:
        raise SystemExit(1)


def _say(command: str) -> None:
    click.echo(f"\n$ {command}", err=True)


if __name__ == "__main__":
    main()
