"""Alternating runs, tables, and a record of the machine and versions of a measurement."""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from lengthwise.util.files import write_atomically
from lengthwise.util.markdown import markdown_table
from lengthwise.util.system import PACKAGES, cpu_count, cpu_model, package_versions


def alternate(sides: Mapping[str, Callable[[], Any]], runs: int, label: str) -> dict[str, list[float]]:
    """Seconds of each side in each round, A B C A B C ..., after one round of warmup."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rounds = [(number, name) for number in range(runs + 1) for name in sides]
    for number, name in tqdm(rounds, desc=label, unit=" runs", leave=False):
        began = time.perf_counter()
        sides[name]()
        if number:
            seconds[name].append(time.perf_counter() - began)
    return seconds


def median(values: Sequence[float]) -> float:
    """The median; the upper one of an even number of values."""
    return sorted(values)[len(values) // 2]


def ratios(of: Sequence[float], to: Sequence[float]) -> str:
    """`to` divided by `of`, round by round: median and range."""
    each = [b / a for a, b in zip(of, to, strict=True)]
    return f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


class Result:
    """The tables of one benchmark, printed as Markdown and saved as JSON."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tables: list[dict[str, Any]] = []

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table and print it."""
        self.tables.append({"title": title, "columns": list(columns), "rows": [list(row) for row in rows]})
        click.echo(f"\n{title}\n")
        click.echo(markdown_table(columns, rows))

    def save(self, path: Path) -> None:
        """Write the tables with the command, machine, versions and date."""
        record = {"benchmark": self.name, "command": command(), **environment(), "tables": self.tables}
        write_atomically(path, json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n")
        click.echo(f"\n{environment()['machine']}; {', '.join(environment()['versions'])}; {environment()['date']}")
        click.echo(f"saved       {path}")


def environment() -> dict[str, Any]:
    """Machine, versions and date."""
    return {
        "machine": f"{cpu_count()} cores, {cpu_model()}",
        "versions": [
            f"{name} {number}" for name, number in package_versions((*PACKAGES, "sentence-transformers")).items()
        ],
        "date": datetime.date.today().isoformat(),
    }


def command() -> str:
    """The command line that is running: a script of a clone, or the console command."""
    name = Path(sys.argv[0]).name
    is_script = name.endswith(".py") and name != "__main__.py"  # of `python -m lengthwise`
    return " ".join([f"python scripts/{name}" if is_script else "lengthwise", *sys.argv[1:]])
