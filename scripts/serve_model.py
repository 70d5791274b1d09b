"""Serve an artifact over HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click
from typing_extensions import Doc

from lengthwise.cli.common import ServerCommand
from lengthwise.export.server.options import RENAMED_OPTIONS, ServeOptions


def option_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """One flag per field of `ServeOptions`, and a hidden one per old name, which is refused with the new name."""
    for old in RENAMED_OPTIONS:
        function = click.option(_flag(old), old, hidden=True)(function)
    types = get_type_hints(ServeOptions)
    for name, hint in reversed(get_type_hints(ServeOptions, include_extras=True).items()):
        kind = next((kind for kind in (int, float) if kind in (types[name], *get_args(types[name]))), str)
        (doc,) = [item.documentation for item in hint.__metadata__ if isinstance(item, Doc)]
        default = getattr(ServeOptions, name)
        text = doc if default is None else f"{doc} [default: {default}]"
        function = click.option(_flag(name), name, type=kind, help=text[0].upper() + text[1:])(function)
    return function


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _report(line: str) -> None:
    """Print a line, or print nothing from now on if the reader of standard output is gone."""
    try:
        click.echo(line)
    except OSError:  # what is left in the buffer would fail once more when the process ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.command(cls=ServerCommand)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="YAML file of these settings, e.g. max_items: 256.")
@option_flags
def main(artifact: Path, config: Path | None, **given: Any) -> None:
    """Serve ARTIFACT: POST /v1/embeddings, /embed, /tokenize, the Open Inference Protocol; a page at /.

    Each setting is a flag, a variable (LENGTHWISE_MAX_ITEMS) or a key of --config, in this order of precedence. The
    vectors equal those that `lengthwise encode` writes. PyTorch is needed for --engine torch only.
    """
    try:
        from lengthwise.export.server.lifecycle import serve
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed; install lengthwise[serve]") from error
    from lengthwise.export.server.settings import resolve_settings

    settings = resolve_settings(given, config)
    shown = settings.redacted()
    width = max(map(len, shown)) + 2
    for name, value in shown.items():
        click.echo(f"{name:<{width}}{value}")
    serve(artifact, settings, _report)


if __name__ == "__main__":
    main()
