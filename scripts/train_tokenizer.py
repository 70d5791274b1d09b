"""Train a tokenizer on a run's dataset and write it to `tokenizer.path`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lengthwise.cli.common import Command, load_run, run_options

if TYPE_CHECKING:
    from lengthwise.config import RunConfig
    from lengthwise.tokens.tokenizer import TextTokenizer


def train(run: RunConfig, *, overwrite: bool = False) -> TextTokenizer:
    """Train and save; the resolved configuration is saved beside the tokenizer."""
    from lengthwise.data.dataset import open_dataset
    from lengthwise.errors import ConfigError, TokenizerError
    from lengthwise.tokens.training import train_tokenizer
    from lengthwise.util.files import write_atomically

    if run.tokenizer.path is None:
        raise ConfigError("tokenizer.path is not set; set it to the tokenizer.json that is to be written")
    path = Path(run.tokenizer.path)
    if path.exists() and not overwrite:
        raise TokenizerError(f"{path}: already there, and models may depend on it; give --overwrite to replace it")
    source = open_dataset(run.dataset)
    tokenizer = train_tokenizer(source.texts(), run.tokenizer.training, show_progress=True)
    write_atomically(path, tokenizer.to_json().encode())
    write_atomically(path.with_suffix(".run.yaml"), run.to_yaml().encode())
    return tokenizer


@click.command(cls=Command)
@run_options
@click.option("--overwrite", is_flag=True, help="Replace a tokenizer that is already there.")
def main(config: Path, overrides: tuple[str, ...], overwrite: bool) -> None:
    """Train a tokenizer on the dataset of the run CONFIG (a YAML file) and write it to tokenizer.path."""
    run = load_run(config, overrides)
    tokenizer = train(run, overwrite=overwrite)
    click.echo(f"tokenizer   {run.tokenizer.path}: {tokenizer.vocab_size:,} ids, {run.tokenizer.training.model}")


if __name__ == "__main__":
    main()
