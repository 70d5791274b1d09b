"""The console command `lengthwise`, with one subcommand per script of this folder.

Decisions:
- A subcommand's module is imported when that command is run, so `lengthwise --help` imports click alone; the one-line
  summaries are therefore written here.
- `quickstart`, `distil` and `gpu_check` read or write files of a clone and are run as scripts of it.
"""

from __future__ import annotations

import difflib
from importlib import import_module

import click

# Module and summary of each subcommand, in the order of use.
COMMANDS = {
    "train-tokenizer": ("train_tokenizer", "Train a tokenizer on the dataset of a run."),
    "inspect": ("inspect_dataset", "Report the lengths of a dataset's texts, and what batching them costs."),
    "init-model": ("init_model", "Create an encoder checkpoint with random weights."),
    "import": ("import_model", "Import an LSTM encoder of another library."),
    "train": ("train_encoder", "Train an encoder from a teacher, pairs or labels."),
    "encode": ("encode_dataset", "Encode a dataset into parquet shards of vectors."),
    "search": ("search_vectors", "Find the rows of a folder of vectors that are most similar to a text."),
    "diff": ("diff_vectors", "Compare two folders of vectors row by row."),
    "cache": ("vector_cache", "Look after a cache of vectors that several runs use."),
    "finalize": ("finalize_vectors", "Check and complete a folder that several processes wrote."),
    "export": ("export_model", "Export an encoder to ONNX and TorchScript, or to Triton."),
    "validate": ("validate_export", "Compare every runtime of an artifact with PyTorch."),
    "audit": ("audit_model", "Find out whether anybody's embedding model depends on the batch."),
    "serve": ("serve_model", "Serve an artifact over HTTP."),
    "evaluate": ("evaluate_encoder", "Measure what vectors are good for, models side by side."),
    "benchmark": ("benchmark", "Measure encoding, kernels, memory and the server on this machine."),
}


class LazyGroup(click.Group):
    """A group whose subcommands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the subcommands, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The subcommand of this name, or None."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"lengthwise.cli.{COMMANDS[name][0]}").main
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that the arguments name; a misspelt one is answered with the nearest name."""
        name = args[0]
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        if close and name not in COMMANDS:
            ctx.fail(f"No such command {name!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands in the help text, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lengthwise")
def main() -> None:
    """From a Hugging Face dataset to vectors, and from the encoder that made them to any ONNX runtime.

    For completion in bash: eval "$(_LENGTHWISE_COMPLETE=bash_source lengthwise)"; zsh and fish likewise.
    """


if __name__ == "__main__":
    main()
