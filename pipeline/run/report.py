"""`report.md` and `report.png` beside a run's vectors: what was encoded, how fast, where the time went, on what.

The report is of the last run that encoded something: a run that found every shard there leaves it as it is. It is not
part of what the folder is verified by, and names no place on the machine, so that a folder can be passed on with it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from pathlib import Path

from lengthwise.batching.inspection import length_percentiles
from lengthwise.batching.plan import PlanReport
from lengthwise.config import RunConfig
from lengthwise.errors import LengthwiseError, StoreError
from lengthwise.run.local import EncodeReport
from lengthwise.run.plots import run_figure
from lengthwise.store.folder import open_folder
from lengthwise.util.plots import figure_to_png
from lengthwise.util.system import cpu_count, cpu_model, package_versions

REPORT, PICTURE = "report.md", "report.png"


def write_report(folder: str | Path, run: RunConfig, report: EncodeReport) -> str | None:
    """Write report.md, and report.png where matplotlib is installed.

    Returns:
        The report's path or URL; None where this run encoded nothing, and an older report stays, or was one part of
        several, which would write over each other's.

    Raises:
        StoreError: the files cannot be written.
    """
    if not report.encoded_shards or not report.complete:
        return None
    place = open_folder(folder)
    try:
        try:
            figure = run_figure(report)
        except LengthwiseError:
            place.remove(PICTURE)  # an older run's
            shown = "There is no picture, because matplotlib is missing: install lengthwise[plot]."
        else:
            place.write(PICTURE, figure_to_png(figure))
            shown = f"![How long the texts were, and where the time went]({PICTURE})"
        place.write(REPORT, report_to_markdown(run, report, shown).encode())
    except OSError as error:
        raise StoreError(
            f"{place.location(REPORT)}: cannot be written ({error}); the vectors are safe, only the report is missing"
        ) from error
    return place.location(REPORT)


def report_to_markdown(run: RunConfig, report: EncodeReport, picture: str = "") -> str:
    """The report as Markdown.

    Args:
        picture: a line that shows a picture, or says why there is none.
    """
    sections = [
        _headline(run, report),
        _encoded(report),
        _times(report),
        picture,
        _lengths_and_batches(report),
        f"## Precision\n\n{precision}." if (precision := precision_sentence(run, report)) else "",
        _machine(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _headline(run: RunConfig, report: EncodeReport) -> str:
    name = Path(run.dataset.path).name if Path(run.dataset.path).is_absolute() else run.dataset.path
    kept = report.rows - report.encoded_rows
    rest = f" The folder's other {kept:,} rows were there already." if kept else ""
    return (
        "# Report of a run\n\n"
        f"`{name}`, split `{run.dataset.split}`, column `{run.dataset.text_column}`: {report.encoded_rows:,} rows of"
        f" {report.encoded_tokens:,} tokens were encoded in {report.seconds:,.1f} s.{rest}"
    )


def _encoded(report: EncodeReport) -> str:
    return _table(
        ("what", "how many"),
        [
            ("rows a second, reading and writing included", f"{report.encoded_rows / report.seconds:,.0f}"),
            ("tokens a second, the same", f"{report.tokens_per_second:,.0f}"),
            ("rows that repeat the ids of another, computed once", f"{report.repeated_rows:,}"),
            ("texts of no tokens, in the whole folder", f"{report.empty:,}"),
            ("rows without a text, in the whole folder", f"{report.null:,}"),
            ("rows that could not be encoded, these among them", f"{report.bad:,}"),
            ("truncated texts, in the whole folder", f"{report.truncated:,}"),
        ],
    )


def _times(report: EncodeReport) -> str:
    stages = (
        ("read and tokenize", report.stages.tokenize),
        ("encode", report.stages.encode),
        ("write", report.stages.write),
        ("the whole run, in which the stages overlap", report.seconds),
    )
    rows = [(name, f"{seconds:,.2f}") for name, seconds in stages]
    return "## Where the time went\n\n" + _table(("stage", "seconds"), rows)


def _lengths_and_batches(report: EncodeReport) -> str:
    if not report.plan.cost:
        return ""
    middle, high, longest = length_percentiles(report.lengths, (50, 95, 100))
    plans = {"dataset order, padded": report.unplanned, "planned": report.plan}
    rows = [(name, *_plan_cells(plan, report.plan.cost)) for name, plan in plans.items()]
    return (
        f"## Lengths and batches\n\nHalf of the rows have at most {middle:,} tokens, 95% at most {high:,}, the longest"
        f" {longest:,}. The cost is estimated; a row that repeats another is in no planned batch.\n\n"
        + _table(("batches", "rows", "batches", "padding", "cost"), rows)
    )


def _plan_cells(plan: PlanReport, planned_cost: float) -> tuple[str, ...]:
    return f"{plan.rows:,}", f"{plan.batches:,}", f"{plan.padding:.1%}", f"{plan.cost / planned_cost:.1f}"


def precision_sentence(run: RunConfig, report: EncodeReport) -> str:
    """How far a lower precision is from float32; empty for float32 itself."""
    if report.max_deviation is None:
        return ""
    precision = run.encode.variant or run.encode.precision
    return (
        f"{precision}: at most {report.max_deviation:.1e} from float32 on sampled rows,"
        f" cosine at least {report.min_cosine:.6f}"
    )


def _machine(report: EncodeReport) -> str:
    rows = [
        ("engine", report.engine),
        ("processor", f"{cpu_model()}, {cpu_count()} cores"),
        ("system", f"{platform.system()} {platform.machine()}"),
        *package_versions().items(),
    ]
    return "## On what\n\n" + _table(("part", "is"), rows, align="---")


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]], align: str = "---:") -> str:
    """A Markdown table; `align` is of what follows its first column."""
    ruler = "| --- |" + f" {align} |" * (len(columns) - 1)
    return "\n".join([f"| {' | '.join(columns)} |", ruler, *(f"| {' | '.join(cells)} |" for cells in rows)])
