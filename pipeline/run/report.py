"""Writes `report.md` and `report.png` beside a run's vectors: what was encoded, how fast, and on what.

The report is of the last run that encoded something: a run that found every shard committed leaves it as it is. The
folder is not verified by it, and it names no path of the machine, so that it can be shared with the folder.
"""

from __future__ import annotations

import platform
from pathlib import Path

from lengthwise.batching.inspection import length_percentiles
from lengthwise.batching.plan import PlanReport
from lengthwise.config import RunConfig
from lengthwise.errors import LengthwiseError, StoreError
from lengthwise.run.plots import run_figure
from lengthwise.run.stats import EncodeReport, ShardStats
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import REPORT, REPORT_FIGURE
from lengthwise.store.protocol import Folder
from lengthwise.util.markdown import RIGHT, markdown_table
from lengthwise.util.plots import figure_to_png
from lengthwise.util.system import cpu_count, cpu_model, package_versions

PICTURE_ROWS = 1_000  # of fewer texts, a picture takes longer than encoding them


def write_report(folder: str | Path, config: RunConfig, report: EncodeReport) -> str | None:
    """Write report.md, and of `PICTURE_ROWS` texts and more report.png, where matplotlib is installed.

    Returns:
        The report's path or URL. None where this run encoded nothing, so that an older report is kept, or was one part
        of several, which would overwrite each other's.

    Raises:
        StoreError: the files cannot be written.
    """
    if not report.encoded.shards or not report.is_complete:
        return None
    place = open_folder(folder)
    try:
        picture = _write_picture(place, report)
        place.write(REPORT, report_to_markdown(config, report, picture).encode())
    except OSError as error:
        raise StoreError(
            f"{place.location(REPORT)}: cannot be written ({error}); the vectors are safe, only the report is missing"
        ) from error
    return place.location(REPORT)


def _write_picture(place: Folder, report: EncodeReport) -> str:
    """Write report.png, or remove that of an older run; returns a line that shows it, or says why there is none."""
    missing = ""
    if report.encoded.rows >= PICTURE_ROWS:
        try:
            figure = run_figure(report)
        except LengthwiseError:
            missing = "There is no picture, because matplotlib is missing: install lengthwise[plot]."
        else:
            place.write(REPORT_FIGURE, figure_to_png(figure))
            return f"![Lengths of the texts, and where the time went]({REPORT_FIGURE})"
    place.remove(REPORT_FIGURE)
    return missing


def report_to_markdown(config: RunConfig, report: EncodeReport, picture: str = "") -> str:
    """The report as Markdown.

    Args:
        picture: a line that shows a picture, or says why there is none.
    """
    sections = [
        _headline(config, report),
        _counts(report),
        _reuse(report),
        _stages(report),
        picture,
        _batches(report.encoded),
        f"## Precision\n\n{precision}." if (precision := describe_precision(config, report)) else "",
        _environment(report),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def describe_precision(config: RunConfig, report: EncodeReport) -> str:
    """How far a lower precision is from float32, and how it was chosen; empty for float32 that was given."""
    precision = config.encode.variant or config.encode.precision
    found = []
    if report.encoded.max_deviation is not None:
        found.append(
            f"at most {report.encoded.max_deviation:.1e} from float32 on sampled rows,"
            f" cosine at least {report.encoded.min_cosine:.6f}"
        )
    if report.chosen:
        found.append(report.chosen)
    return f"{precision}: {'; '.join(found)}" if found else ""


def _reuse(report: EncodeReport) -> str:
    if not report.reuse:
        return ""
    rows = sum(report.encoded.reused.values())
    saved = report.describe_saved()
    lines = "\n".join(f"- {sentence}" for sentence in (*report.reuse, *([f"saved: {saved}"] if saved else [])))
    return f"## Reused vectors\n\n{rows:,} rows of this run have their vector from another folder.\n\n{lines}"


def _headline(config: RunConfig, report: EncodeReport) -> str:
    dataset, encoded = config.dataset, report.encoded
    name = Path(dataset.path).name if Path(dataset.path).is_absolute() else dataset.path
    kept = report.totals.rows - encoded.rows
    rest = f" The folder's other {kept:,} rows were encoded before." if kept else ""
    return (
        "# Report of a run\n\n"
        f"`{name}`, split `{dataset.split}`, column `{dataset.text_column}`: {encoded.rows:,} rows of"
        f" {encoded.tokens:,} tokens were encoded in {report.seconds:,.1f} s.{rest}"
    )


def _counts(report: EncodeReport) -> str:
    totals, encoded = report.totals, report.encoded
    rows = [
        ("rows per second, reading and writing included", f"{encoded.rows / report.seconds:,.0f}"),
        ("tokens per second, reading and writing included", f"{report.tokens_per_second:,.0f}"),
        ("rows that repeat the ids of another, computed once", f"{encoded.repeated:,}"),
        *_shared_steps(encoded),
        ("texts of no tokens, in the whole folder", f"{totals.empty:,}"),
        ("rows without a text, in the whole folder", f"{totals.null:,}"),
        ("rows that could not be encoded, those included", f"{totals.bad:,}"),
        ("truncated texts, in the whole folder", f"{totals.truncated:,}"),
    ]
    return markdown_table(("what", "how many"), rows, RIGHT)


def _shared_steps(encoded: ShardStats) -> list[tuple[str, str]]:
    if not encoded.saved_steps:
        return []
    share = encoded.saved_steps / encoded.steps
    return [("of all other rows' tokens, those that rows begin or end with in common, computed once", f"{share:.1%}")]


def _stages(report: EncodeReport) -> str:
    stages = report.encoded.stages
    rows = [
        ("read and tokenize", f"{stages.tokenize:,.2f}"),
        ("encode", f"{stages.encode:,.2f}"),
        ("write", f"{stages.write:,.2f}"),
        ("the whole run, in which the stages overlap", f"{report.seconds:,.2f}"),
    ]
    return "## Time\n\n" + markdown_table(("stage", "seconds"), rows, RIGHT)


def _batches(encoded: ShardStats) -> str:
    if not encoded.plan.cost:
        return ""
    middle, high, longest = length_percentiles(encoded.lengths, (50, 95, 100))
    plans = {"dataset order, padded": encoded.unplanned, "planned": encoded.plan}
    rows = [(name, *_plan_cells(plan, encoded.plan.cost)) for name, plan in plans.items()]
    return (
        f"## Lengths and batches\n\nHalf of the rows have at most {middle:,} tokens, 95% at most {high:,}, the longest"
        f" {longest:,}. The cost is estimated; a row that repeats another is in no planned batch.\n\n"
        + markdown_table(("batches", "rows", "batches", "padding", "cost"), rows, RIGHT)
    )


def _plan_cells(plan: PlanReport, planned_cost: float) -> tuple[str, ...]:
    return f"{plan.rows:,}", f"{plan.batches:,}", f"{plan.padding:.1%}", f"{plan.cost / planned_cost:.1f}"


def _environment(report: EncodeReport) -> str:
    rows = [
        ("engine", report.engine),
        ("processor", f"{cpu_model()}, {cpu_count()} cores"),
        ("system", f"{platform.system()} {platform.machine()}"),
        *package_versions().items(),
    ]
    return "## Environment\n\n" + markdown_table(("part", "value"), rows)
