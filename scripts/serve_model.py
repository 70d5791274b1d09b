"""Put an artifact behind HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lengthwise.cli.common import ServerCommand

NUMBERS = {"port": int, "workers": int, "deadline": float, "canary": float, "notice": float, "drain": float}
FLAGS = {
    "host": "Address to listen on.",
    "port": "Port; 0 takes a free one.",
    "api_key": "Asked for as a bearer token. Other users of the machine can read flags: better set LENGTHWISE_API_KEY.",
    "model_name": "What clients call it; the folder's name if left out.",
    "device": "cpu, cuda or auto.",
    "variant": "The graph; the one that validation recommends if left out.",
    "workers": "Batches at a time; one a core if left out.",
    "max_batch_tokens": "Most cells (rows x longest) of a batch.",
    "max_text_tokens": "Most tokens of a text.",
    "max_items": "Most texts of a request.",
    "max_request_bytes": "Largest body of a request.",
    "max_queue_tokens": "Tokens that may wait; beyond, requests get 429.",
    "deadline": "Seconds that a request may take; beyond, it gets 504.",
    "canary": "Seconds between two checks of the golden vectors.",
    "notice": "Seconds that a server which is told to end still says so to those who ask.",
    "drain": "Seconds that accepted requests have to be answered on ending.",
}


def flags(function: Any) -> Any:
    """A flag for each setting; its default is in `lengthwise.export.server.settings`."""
    for name, text in reversed(FLAGS.items()):
        kind = int if name.startswith("max_") else NUMBERS.get(name, str)
        function = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=text)(function)
    return function


@click.command(cls=ServerCommand)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="A YAML file of these settings (max_items: 256).")
@flags
def main(artifact: Path, config: Path | None, **given: Any) -> None:
    """Serve ARTIFACT: POST /v1/embeddings, /embed, /tokenize, the Open Inference Protocol; a page at /.

    Each setting is a flag, a variable (LENGTHWISE_MAX_ITEMS) or a line of --config, in this order. What is answered
    equals what encode_dataset writes. PyTorch is not needed.
    """
    try:
        from lengthwise.export.server.lifecycle import serve
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed; install lengthwise[serve]") from error
    from lengthwise.export.server.settings import resolve_settings

    settings = resolve_settings(given, config)
    for name, value in settings.shown().items():
        click.echo(f"{name:<18}{value}")
    serve(artifact, settings, click.echo)


if __name__ == "__main__":
    main()
