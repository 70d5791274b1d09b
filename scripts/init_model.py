"""Make a seeded encoder checkpoint for a run's tokenizer. It is not trained, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, load_run, run_options

if TYPE_CHECKING:
    from lengthwise.config import EncoderConfig, RunConfig


def init(run: RunConfig, *, overwrite: bool = False) -> EncoderConfig:
    """Make and save the checkpoint."""
    from lengthwise.config import TokenizationSettings
    from lengthwise.encoder.checkpoint import create_checkpoint
    from lengthwise.errors import CheckpointError, ConfigError
    from lengthwise.tokens.tokenizer import load_tokenizer
    from lengthwise.util.files import write_atomically

    if run.tokenizer.path is None:
        raise ConfigError("tokenizer.path is not set; set it to the tokenizer.json that the model is for")
    folder = Path(run.model.path)
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder}: already there, and may be trained; give --overwrite to replace it")
    if folder.exists() and not (folder / "config.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: not empty, and not a checkpoint; choose another model.path")
    names = run.tokenizer.training
    config = create_checkpoint(
        folder,
        load_tokenizer(run.tokenizer.path),
        run.model.init,
        run.resolve_tokenization(TokenizationSettings()),
        pad_token=names.pad_token,
        unk_token=names.unk_token,
        seed=run.model.seed,
    )
    write_atomically(folder / "run.yaml", run.to_yaml().encode())
    return config


@click.command(cls=Command)
@run_options
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that is already there.")
def main(config: Path, overrides: tuple[str, ...], overwrite: bool) -> None:
    """Make a checkpoint with seeded random weights, of the shape model.init, for the run CONFIG (a YAML file)."""
    run = load_run(config, overrides)
    made = init(run, overwrite=overwrite)
    click.echo(f"checkpoint  {run.model.path}: {made.dim} dimensions; never trained, weights from seed {made.seed}")


if __name__ == "__main__":
    main()
