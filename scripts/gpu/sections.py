"""The sections of a GPU check, and how they are run: one check after the other, whatever one of them raises."""

from __future__ import annotations

import datetime
import os
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module

import click

from lengthwise.cli.benchmarks.harness import command
from lengthwise.cli.gpu.context import Check, Context, NotRun, Section
from lengthwise.cli.gpu.record import NOT_RUN, Ran, Record, Row, SectionRecord, counts
from lengthwise.util.system import PACKAGES, package_versions

MODULES = {  # by the section's name
    "environment": "environment",
    "tests": "suite",
    "conformance": "conformance",
    "probes": "lstm_probes",
    "rates": "rates",
    "steps": "steps",
}
_REASON = 300  # letters of a failure that are kept
_LINES = 30  # of its traceback that are printed


def all_sections() -> list[Section]:
    """Every section, in the order of the page."""
    return [import_module(f"lengthwise.cli.gpu.{module}").SECTION for module in MODULES.values()]


def nothing() -> Record:
    """The record of a check that could run nothing."""
    return tuple(map(_unrun, all_sections()))


def run_sections(context: Context, names: tuple[str, ...]) -> Iterator[SectionRecord]:
    """The sections of these names, each as soon as it has run."""
    for section in all_sections():
        if section.name in names:
            yield _run(context, section)


def _unrun(section: Section) -> SectionRecord:
    rows = tuple(Row(check.what, check.asked) for check in section.checks)
    return SectionRecord(section.name, section.title, rows)


def _run(context: Context, section: Section) -> SectionRecord:
    click.echo(f"\n{section.title}")
    began = time.perf_counter()
    rows = []
    for check in section.checks:
        row = _found(context, check)
        click.echo(f"  {row.status:9} {row.what}: {row.found}")
        rows.append(row)
    click.echo(f"  {counts(rows)} in {time.perf_counter() - began:.0f} s")
    return replace(_unrun(section), rows=tuple(rows), ran=_where(context))


def _found(context: Context, check: Check) -> Row:
    """A check's row. A failure in one is no reason not to try the others."""
    try:
        found = check.find(context)
    except NotRun as absent:
        return Row(check.what, check.asked, f"{NOT_RUN}: {absent}", "not run")
    except Exception as error:  # whatever the libraries raise
        if os.environ.get("LENGTHWISE_TRACEBACK"):
            raise
        click.echo("".join(traceback.format_exc().splitlines(keepends=True)[-_LINES:]))
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_REASON]
        return Row(check.what, check.asked, reason, "failed")
    return Row(check.what, check.asked, found.text, "rehearsed" if context.rehearsal else found.status)


def _where(context: Context) -> Ran:
    import torch

    device = "a rehearsal on a CPU, no GPU" if context.rehearsal else torch.cuda.get_device_name(0)
    found = package_versions((*PACKAGES, "sentence-transformers"))
    return Ran(device, found, datetime.date.today().isoformat(), command())
