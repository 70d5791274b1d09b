"""Fixtures of the command line tests."""

from helpers.cli import invoke, trained

__all__ = ["invoke", "trained"]
