"""The sections of a GPU check, and how they run: every check is tried, also after one has failed."""

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
from lengthwise.cli.gpu.record import NOT_RUN, Record, Row, RunInfo, SectionRecord, count_statuses
from lengthwise.util.system import PACKAGES, package_versions

MODULES = {  # by the section's name
    "environment": "environment",
    "tests": "suite",
    "conformance": "conformance",
    "probes": "lstm_probes",
    "rates": "rates",
    "steps": "steps",
}
_MAX_REASON = 300  # characters of an error in the table
_MAX_LINES = 30  # of its traceback on the terminal


def load_sections() -> list[Section]:
    """Every section, in the order of the page."""
    return [import_module(f"lengthwise.cli.gpu.{module}").SECTION for module in MODULES.values()]


def empty_record() -> Record:
    """A record in which no check has run."""
    return tuple(map(_empty_section, load_sections()))


def run_sections(context: Context, names: tuple[str, ...]) -> Iterator[SectionRecord]:
    """Run the sections of these names, and yield the record of each."""
    for section in load_sections():
        if section.name in names:
            yield _run_section(context, section)


def _empty_section(section: Section) -> SectionRecord:
    rows = tuple(Row(check.name, check.target) for check in section.checks)
    return SectionRecord(section.name, section.title, rows)


def _run_section(context: Context, section: Section) -> SectionRecord:
    click.echo(f"\n{section.title}")
    began = time.perf_counter()
    rows = []
    for check in section.checks:
        row = _run_check(context, check)
        click.echo(f"  {row.status:9} {row.name}: {row.result}")
        rows.append(row)
    click.echo(f"  {count_statuses(rows)} in {time.perf_counter() - began:.0f} s")
    return replace(_empty_section(section), rows=tuple(rows), run_info=_run_info(context))


def _run_check(context: Context, check: Check) -> Row:
    """Run one check; an error becomes its result."""
    try:
        outcome = check.measure(context)
    except NotRun as reason:
        return Row(check.name, check.target, f"{NOT_RUN}: {reason}", "not run")
    except Exception as error:  # of any library
        if os.environ.get("LENGTHWISE_TRACEBACK"):
            raise
        click.echo("".join(traceback.format_exc().splitlines(keepends=True)[-_MAX_LINES:]))
        message = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_REASON]
        return Row(check.name, check.target, message, "failed")
    return Row(check.name, check.target, outcome.text, "rehearsed" if context.rehearsal else outcome.status)


def _run_info(context: Context) -> RunInfo:
    import torch

    device = "a rehearsal on a CPU, no GPU" if context.rehearsal else torch.cuda.get_device_name(0)
    versions = package_versions((*PACKAGES, "sentence-transformers"))
    return RunInfo(device, versions, datetime.date.today().isoformat(), command())
