"""Export a run's encoder to an artifact folder: ONNX, TorchScript, tokenizer and golden vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from _common import Verb, as_typed, load_run, run_options

if TYPE_CHECKING:
    from export.artifact import Artifact
    from pipeline.config import RunConfig


def export(run: RunConfig) -> Artifact:
    """Trace and write; the resolved configuration is saved in the artifact."""
    from export.build import build_artifact
    from pipeline.checkpoint import load_run_model

    encoder, tokenizer = load_run_model(run)
    artifact = build_artifact(
        encoder,
        tokenizer,
        run.export.output,
        add_special_tokens=run.tokenizer.add_special_tokens,
        variants=run.export.variants,
    )
    return artifact.with_files({"run.yaml": run.to_yaml()})


@click.command(cls=Verb)
@run_options
def main(config: Path, overrides: tuple[str, ...]) -> None:
    """Export the encoder of the run CONFIG (a YAML file) to the artifact folder export.output."""
    run = load_run(config, overrides)
    artifact = export(run)
    size = sum(file["bytes"] for file in artifact.manifest["files"].values())
    click.echo(f"artifact    {artifact.folder}: {len(artifact.manifest['files'])} files, {size / 1e6:.1f} MB")
    click.echo(f"next        python scripts/validate_export.py {artifact.folder} --texts {config}{as_typed(overrides)}")


if __name__ == "__main__":
    main()
