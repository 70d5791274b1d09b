"""Shared by the scripts: the arguments that name a run, logging, and how errors are reported."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from lengthwise.config import RunConfig
    from lengthwise.util.signals import Interrupted

TRACEBACK = "LENGTHWISE_TRACEBACK"  # environment variable: if set, errors are raised with their traceback


class _ErrorReporting:
    """A click command that reports a user's mistake or an interruption in one paragraph, without a traceback.

    Exits with 2 on a LengthwiseError, and with 128 + the signal's number on SIGINT and SIGTERM, within seconds.

    Attributes:
        exits_on_signals: whether a signal ends the command at once; a server handles signals itself.
    """

    exits_on_signals = True

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from lengthwise.errors import LengthwiseError
        from lengthwise.util.signals import Interrupted, interruptible

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
        try:
            with interruptible(_interrupted_message) if self.exits_on_signals else nullcontext():
                return super().invoke(ctx)  # type: ignore[misc]  # of click, which the subclasses derive from too
        except LengthwiseError as error:
            if os.environ.get(TRACEBACK):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except Interrupted as interrupted:
            click.echo(f"\n{_interrupted_message(interrupted)}", err=True)
            sys.stdout.flush()
            os._exit(interrupted.exit_code)  # skips the interpreter's shutdown, which would take seconds


def _interrupted_message(interrupted: Interrupted) -> str:
    return (
        f"error: ended by {interrupted}; no file is left incomplete, committed shards are safe, and the same command"
        " continues from there"
    )


class Command(_ErrorReporting, click.Command):
    """A script with one command."""


class ServerCommand(Command):
    """A script that runs until it is stopped."""

    exits_on_signals = False


class CommandGroup(_ErrorReporting, click.Group):
    """A script with several commands."""


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that name a run: a YAML file and changes to it."""
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY.PATH=VALUE",
        help="Change one setting for this run; repeatable.",
    )(function)
    return click.argument("path", metavar="CONFIG", type=click.Path(path_type=Path))(function)


def as_typed(overrides: tuple[str, ...]) -> str:
    """The overrides as they would be typed in a shell, with a space before each."""
    return "".join(f" --set {shlex.quote(override)}" for override in overrides)


def load_run(path: Path, overrides: tuple[str, ...]) -> RunConfig:
    """Read the configuration that the arguments of `run_options` name."""
    from lengthwise.config import load_config

    return load_config(path, overrides)


def show_command(command: str) -> None:
    """Print a command as it would be typed, before a script does what it does."""
    click.echo(f"\n$ {command}", err=True)
