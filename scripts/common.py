"""What every script shares: its arguments, its log, and how a user's mistake is told."""

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

TRACEBACK = "LENGTHWISE_TRACEBACK"  # set, it shows where an error comes from


class _UserErrors:
    """Tells a user's mistake, or wish to end, in one paragraph, without a traceback.

    Exits with 2 on a LengthwiseError, and with 128 and the signal's number on SIGINT and SIGTERM, within seconds.

    Attributes:
        ends_at_signals: whether it does; a server has something to do first.
    """

    ends_at_signals = True

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from lengthwise.errors import LengthwiseError
        from lengthwise.util.signals import Interrupted, interruptible

        logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
        try:
            with interruptible(_interrupted_message) if self.ends_at_signals else nullcontext():
                return super().invoke(ctx)  # type: ignore[misc]  # click's, of the classes below
        except LengthwiseError as error:
            if os.environ.get(TRACEBACK):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)
        except Interrupted as interrupted:
            click.echo(f"\n{_interrupted_message(interrupted)}", err=True)
            sys.stdout.flush()
            os._exit(interrupted.exit_code)  # all is given back; what Python still has to tidy up takes seconds


def _interrupted_message(interrupted: Interrupted) -> str:
    return (
        f"error: ended by {interrupted}; what is there is whole, shards that were committed are safe, and the same"
        " command goes on from there"
    )


class Command(_UserErrors, click.Command):
    """A script that does one thing."""


class ServerCommand(Command):
    """A script that runs until it is told to end."""

    ends_at_signals = False


class CommandGroup(_UserErrors, click.Group):
    """A script of several commands."""


def run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that name a run: a YAML file and changes to it."""
    function = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY.PATH=VALUE",
        help="Change one setting for this run; may be given again.",
    )(function)
    return click.argument("config", type=click.Path(path_type=Path))(function)


def as_typed(overrides: tuple[str, ...]) -> str:
    """The overrides as they would be typed in a shell, with a space before each."""
    return "".join(f" --set {shlex.quote(override)}" for override in overrides)


def load_run(config: Path, overrides: tuple[str, ...]) -> RunConfig:
    """Read the run that the arguments name."""
    from lengthwise.config import load_config

    return load_config(config, overrides)
