"""Export a run's encoder to an artifact folder: ONNX, TorchScript, tokenizer and golden vectors; and to Triton."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, as_typed, load_run, run_options

if TYPE_CHECKING:
    from lengthwise.export.artifact.folder import Artifact


def open_artifact(folder: Path, overrides: tuple[str, ...], repository: Path | None) -> Artifact:
    """Open an existing artifact."""
    from lengthwise.export.artifact.folder import Artifact

    if repository is None:
        raise click.UsageError(f"{folder} is a folder; give the YAML file of a run, or --triton DIR for an artifact")
    if overrides:
        raise click.UsageError(f"--set changes a setting of a run, and {folder} is a folder; give the run's YAML file")
    return Artifact.open(folder)


def export(path: Path, overrides: tuple[str, ...]) -> Artifact:
    """Export the encoder of a run, and print the artifact's size and the next command."""
    from lengthwise.export.artifact.build import export_run

    artifact = export_run(load_run(path, overrides))
    size = sum(file["bytes"] for file in artifact.manifest["files"].values())
    click.echo(f"artifact    {artifact.folder}: {len(artifact.manifest['files'])} files, {size / 1e6:.1f} MB")
    click.echo(f"next        lengthwise validate {artifact.folder} --texts {path}{as_typed(overrides)}")
    return artifact


def export_sentence_transformers(path: Path, overrides: tuple[str, ...]) -> None:
    """Write the encoder of a run as a folder of sentence-transformers."""
    from lengthwise.encoder.checkpoint import load_checkpoint
    from lengthwise.formats.sentence_transformers_writer import write_sentence_transformers

    config = load_run(path, overrides)
    folder = Path(config.export.output)
    for note in write_sentence_transformers(folder, *load_checkpoint(config.model.path, config.tokenizer.path)):
        click.echo(f"note        {note}")
    click.echo(f"model       {folder}: SentenceTransformer({str(folder)!r}) opens it")


@click.command(cls=Command)
@run_options
@click.option(
    "--triton", "repository", metavar="DIR", type=click.Path(path_type=Path), help="Write a model for Triton."
)
@click.option("--triton-name", metavar="NAME", help="Its name; by default that of the artifact's folder.")
@click.option("--triton-device", type=click.Choice(["cpu", "cuda"]), help="The device that it runs on; by default cpu.")
@click.option("--triton-batch", type=click.IntRange(1), help="Its max_batch_size; by default 64.")
@click.option("--variant", help="The graph for Triton; by default the one that validation recommends.")
@click.option(
    "--format",
    "written_format",
    type=click.Choice(["artifact", "sentence-transformers"]),
    default="artifact",
    help="sentence-transformers: write a folder that this library opens.",
)
def main(
    path: Path,
    overrides: tuple[str, ...],
    repository: Path | None,
    triton_name: str | None,
    triton_device: str | None,
    triton_batch: int | None,
    variant: str | None,
    written_format: str,
) -> None:
    """Export the encoder of the run CONFIG (a YAML file) to the artifact folder export.output.

    With --format sentence-transformers, export.output becomes a folder that SentenceTransformer opens instead.

    With --triton DIR, also write a model of it to DIR, a model repository of Triton Inference Server. CONFIG may then
    be an artifact folder, which is not changed: if it was validated, the graph is the one that validation recommends.
    """
    named = {"name": triton_name, "device": triton_device, "max_batch_size": triton_batch, "variant": variant}
    options = {key: value for key, value in named.items() if value is not None}
    if options and repository is None:
        raise click.UsageError("--triton-name, --triton-device, --triton-batch and --variant need --triton DIR")
    if written_format == "sentence-transformers":
        if repository is not None:
            raise click.UsageError("--triton takes an artifact; leave --format out")
        export_sentence_transformers(path, overrides)
        return
    artifact = open_artifact(path, overrides, repository) if path.is_dir() else export(path, overrides)
    if repository is not None:
        from lengthwise.export.triton import write_triton_model

        folder = write_triton_model(artifact, repository, **options)  # type: ignore[arg-type]  # click checked them
        click.echo(f"triton      {folder}: tritonserver --model-repository={repository}")


if __name__ == "__main__":
    main()
