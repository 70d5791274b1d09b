"""Export an encoder to an artifact folder: ONNX, TorchScript, tokenizer and golden vectors; and to Triton."""

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
        raise click.UsageError(
            f"{folder} is a folder; give the YAML file of a run, a checkpoint with --output DIR, or an artifact with"
            " --triton DIR"
        )
    if overrides:
        raise click.UsageError(f"--set changes a setting of a run, and {folder} is a folder; give the run's YAML file")
    return Artifact.open(folder)


def is_checkpoint(path: Path) -> bool:
    """Whether a path is the folder of a checkpoint, and not of an artifact, which has a checkpoint's files too."""
    from lengthwise.config import CONFIG_FILE
    from lengthwise.export.artifact.folder import MANIFEST_FILE

    return (path / CONFIG_FILE).is_file() and not (path / MANIFEST_FILE).exists()


def export(path: Path, overrides: tuple[str, ...], output: Path | None) -> Artifact:
    """Export the encoder of a run, or of a checkpoint; print the artifact's size and the next command."""
    from lengthwise.encoder.checkpoint import load_checkpoint
    from lengthwise.export.artifact.build import build_artifact, export_run

    if output is None:
        artifact, texts = export_run(load_run(path, overrides)), f" --texts {path}{as_typed(overrides)}"
    else:
        artifact, texts = build_artifact(*load_checkpoint(path), output), ""
    size = sum(file["bytes"] for file in artifact.manifest["files"].values())
    click.echo(f"artifact    {artifact.folder}: {len(artifact.manifest['files'])} files, {size / 1e6:.1f} MB")
    click.echo(f"next        lengthwise validate {artifact.folder}{texts}")
    return artifact


def export_sentence_transformers(path: Path, overrides: tuple[str, ...], output: Path | None) -> None:
    """Write the encoder of a run, or of a checkpoint, as a folder of sentence-transformers."""
    from lengthwise.encoder.checkpoint import load_checkpoint
    from lengthwise.formats.sentence_transformers_writer import write_sentence_transformers

    if output is None:
        config = load_run(path, overrides)
        folder, model = Path(config.export.output), load_checkpoint(config.model.path, config.tokenizer.path)
    else:
        folder, model = output, load_checkpoint(path)
    for note in write_sentence_transformers(folder, *model):
        click.echo(f"note        {note}")
    click.echo(f"model       {folder}: SentenceTransformer({str(folder)!r}) opens it")


def _about_output(path: Path, output: Path | None) -> str:
    """What is wrong with --output, which a checkpoint needs and nothing else has."""
    if output is None:
        return f"{path} is a checkpoint; give --output DIR, the artifact to write"
    return f"--output is for the folder of a checkpoint, and {path} is none; a run has its own export.output"


@click.command(cls=Command)
@run_options
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where to, if CONFIG is the folder of a checkpoint.",
)
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
    output: Path | None,
    repository: Path | None,
    triton_name: str | None,
    triton_device: str | None,
    triton_batch: int | None,
    variant: str | None,
    written_format: str,
) -> None:
    """Export the encoder of the run CONFIG (a YAML file) to the artifact folder export.output.

    With --format sentence-transformers, export.output becomes a folder that SentenceTransformer opens instead.

    CONFIG may also be the folder of a checkpoint, and then --output names the artifact.

    With --triton DIR, also write a model of it to DIR, a model repository of Triton Inference Server. CONFIG may then
    be an artifact folder, which is not changed: if it was validated, the graph is the one that validation recommends.
    """
    if (output is not None) != is_checkpoint(path):
        raise click.UsageError(_about_output(path, output))
    if output is not None and overrides:
        raise click.UsageError(
            f"--set changes a setting of a run, and {path} is a checkpoint; give the run's YAML file"
        )
    named = {"name": triton_name, "device": triton_device, "max_batch_size": triton_batch, "variant": variant}
    options = {key: value for key, value in named.items() if value is not None}
    if options and repository is None:
        raise click.UsageError("--triton-name, --triton-device, --triton-batch and --variant need --triton DIR")
    if written_format == "sentence-transformers":
        if repository is not None:
            raise click.UsageError("--triton takes an artifact; leave --format out")
        export_sentence_transformers(path, overrides, output)
        return
    is_artifact = output is None and path.is_dir()
    artifact = open_artifact(path, overrides, repository) if is_artifact else export(path, overrides, output)
    if repository is not None:
        from lengthwise.export.triton import write_triton_model

        folder = write_triton_model(artifact, repository, **options)  # type: ignore[arg-type]  # click checked them
        click.echo(f"triton      {folder}: tritonserver --model-repository={repository}")


if __name__ == "__main__":
    main()
