"""Figures of lengths and plans: for inspecting a dataset before a run, and for a run's report.

Notable decisions:
- Blue is work that has to be done, orange is padding, and vermilion is what exceeds a limit.
- A plan is drawn to scale: a row is a bar as long as its tokens, so the orange area is the padding. The rows drawn are
  the first of the shard, planned by themselves; the figures in the titles are of the whole shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.inspection import Inspection, Strategy, length_percentiles
from lengthwise.batching.plan import PlanReport
from lengthwise.run.stats import EncodeReport
from lengthwise.util.plots import BLUE, FAINT, INK, ORANGE, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TOKENS, PADDING, BEYOND = BLUE, ORANGE, VERMILION
DRAWN_ROWS = 192  # three batches of dataset order, and still a few pixels per row
_TITLE, _TEXT = 15, 12.5
_MAX_BINS = 40  # on a linear axis
_GROWTH = 0.25  # from a bin to the next, on a logarithmic axis
_LONG_TAIL = 5  # the axis is logarithmic if the longest is more than this many times the median
_GAP = 2  # between batches, in rows
_STAGES = ("tokenize", "encode", "write")


def dataset_figure(inspection: Inspection) -> Figure:
    """The lengths of a dataset's texts, and the same rows batched by each strategy."""
    from matplotlib.patches import Patch

    figure = new_figure(14, 11.5)
    grid = figure.add_gridspec(2, len(inspection.strategies), height_ratios=(4, 7))
    draw_lengths(figure.add_subplot(grid[0, :]), np.bincount(inspection.lengths), inspection.max_length)
    encoded = inspection.encoded_lengths
    drawn = encoded[encoded > 0][:DRAWN_ROWS]
    panels = [figure.add_subplot(grid[1, column]) for column in range(len(inspection.strategies))]
    ends = [draw_plan(axes, drawn, way) for axes, (way, _) in zip(panels, inspection.strategies, strict=True)]
    for axes, (way, report) in zip(panels, inspection.strategies, strict=True):
        axes.set_xlim(0, 1.04 * drawn.max(initial=1))
        axes.set_ylim(max(1, *ends), -_GAP)
        title = f"{way.name}: cost {inspection.relative_cost(report):.1f}"
        axes.set_title(title, fontsize=_TITLE, color=INK, loc="left", pad=26)
        axes.text(0, 1.015, _describe_strategy(way, report), transform=axes.transAxes, fontsize=_TEXT, color=FAINT)
    panels[0].set_ylabel("rows; each box is a batch", fontsize=_TEXT)
    colours = {"tokens": TOKENS, "padding that is computed": PADDING}
    figure.legend(
        handles=[Patch(color=colour, label=label) for label, colour in colours.items()],
        loc="outside lower left",
        ncols=2,
        frameon=False,
        fontsize=_TEXT,
        title=f"Drawn: the first {len(drawn):,} texts, batched by themselves."
        f" Figures: all {len(encoded):,} texts. Cost: estimated time, planned = 1.0.",
        title_fontsize=_TEXT,
        alignment="left",
    )
    return figure


def run_figure(report: EncodeReport) -> Figure:
    """The lengths of a run's texts, and where its time went."""
    figure = new_figure(14, 5)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    draw_lengths(left, report.encoded.lengths)
    draw_stages(right, {name: getattr(report.encoded.stages, name) for name in _STAGES}, report.seconds)
    return figure


def draw_lengths(axes: Axes, counts: NDArray[np.integer], max_length: int | None = None) -> None:
    """A histogram of rows by tokens per row; the title counts rows of no tokens.

    Args:
        counts: [longest + 1], how many rows have each length.
        max_length: rows above it are drawn in another colour.
    """
    rows, without = int(counts.sum()), int(counts[:1].sum())
    of_tokens = np.array(counts)
    of_tokens[:1] = 0
    middle, high, longest = length_percentiles(of_tokens, (50, 95, 100))
    logarithmic = longest > _LONG_TAIL * max(middle, 8)
    starts = _bin_starts(longest, max_length, logarithmic)
    heights = np.add.reduceat(of_tokens, starts[:-1]) if longest else np.zeros(0, np.int64)
    colours = [BEYOND if max_length is not None and start > max_length else TOKENS for start in starts[:-1]]
    edges = starts - 0.5  # a length is the middle of its own bar
    axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=colours, edgecolor="white", linewidth=0.6)
    if logarithmic:
        _logarithmic_lengths(axes, longest)
    left = edges[np.flatnonzero(heights)[0]] if logarithmic else 0
    axes.set_xlim(left, 1.03 * edges[-1])
    top = max(1.0, float(heights.max(initial=0)))
    axes.set_ylim(0, 1.42 * top)
    if longest:
        _mark(axes, middle, 1.07 * top, f"half have at most {middle:,}", INK)
        _mark(axes, high, 1.2 * top, f"95% have at most {high:,}", INK)
    if max_length is not None and max_length < longest:
        beyond = int(of_tokens[max_length + 1 :].sum())
        _mark(axes, max_length + 0.5, 1.33 * top, f"max_length {max_length:,}: {beyond:,} rows are longer", BEYOND)
    missing = f"; {without:,} more have no tokens" if without else ""
    axes.set_title(f"Lengths of {rows - without:,} texts{missing}", fontsize=_TITLE, color=INK, loc="left")
    scale = " (logarithmic)" if logarithmic else ""
    axes.set_xlabel(f"tokens per row{scale}; the longest has {longest:,}", fontsize=_TEXT)
    axes.set_ylabel("rows", fontsize=_TEXT)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _style_axes(axes)


def draw_plan(axes: Axes, lengths: NDArray[np.integer], strategy: Strategy) -> int:
    """Batches from the top down: a row is a bar of its tokens, and of its padding where that is computed.

    Args:
        lengths: int64[rows], tokens per row.

    Returns:
        Where the drawing ends, in rows.
    """
    from matplotlib.patches import Rectangle

    top = 0
    for batch in strategy.plan(lengths):
        tokens, places = lengths[batch], top + np.arange(len(batch))
        longest = int(tokens.max())
        axes.barh(places, tokens, 1.0, align="edge", color=TOKENS)
        if strategy.costs.pads:
            axes.barh(places, longest - tokens, 1.0, left=tokens, align="edge", color=PADDING)
        axes.add_patch(Rectangle((0, top), longest, len(batch), fill=False, edgecolor=INK, linewidth=0.8))
        top += len(batch) + _GAP
    axes.set_xlabel("tokens", fontsize=_TEXT)
    axes.set_yticks([])
    _style_axes(axes)
    return top


def draw_stages(axes: Axes, stages: dict[str, float], seconds: float) -> None:
    """Seconds of each stage as bars, and of the whole run as a line: the stages overlap."""
    bars = axes.barh(list(stages), list(stages.values()), color=TOKENS)
    axes.bar_label(bars, [f"{value:,.1f} s" for value in stages.values()], padding=5, fontsize=_TEXT)
    axes.axvline(seconds, color=INK, linestyle="--")
    axes.set_xlim(0, 1.25 * max(seconds, *stages.values()))
    axes.invert_yaxis()
    axes.set_title(f"Where {seconds:,.1f} s went (the stages overlap)", fontsize=_TITLE, color=INK, loc="left")
    axes.set_xlabel("seconds; the line is the whole run", fontsize=_TEXT)
    _style_axes(axes)


def _bin_starts(longest: int, limit: int | None, logarithmic: bool) -> NDArray[np.int64]:
    """The first length of each bin, and one beyond the longest; a bin ends at `limit` where rows are longer."""
    starts, width = [1], -(-longest // _MAX_BINS)
    while starts[-1] <= longest:
        starts.append(starts[-1] + max(1, int(_GROWTH * starts[-1]) if logarithmic else width))
    starts[-1] = longest + 1
    found = np.array(starts, np.int64)
    if limit is not None and limit < longest:
        inner = found[1:-1]
        inner[int(np.abs(inner - limit - 1).argmin())] = limit + 1
    return found


def _logarithmic_lengths(axes: Axes, longest: int) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    ticks = [digit * 10**power for power in range(len(str(longest))) for digit in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= longest]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _mark(axes: Axes, length: float, height: float, text: str, colour: str) -> None:
    """A line at a length, and its text on the side with more space."""
    place, _ = axes.transAxes.inverted().transform(axes.transData.transform((length, 0)))
    offset, side = (6, "left") if place < 0.35 else (-6, "right")
    axes.plot([length, length], [0, height], color=colour, linestyle="--", linewidth=1.6)
    axes.annotate(
        text,
        (length, height),
        (offset, 0),
        textcoords="offset points",
        color=colour,
        fontsize=_TEXT,
        va="center",
        ha=side,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _describe_strategy(strategy: Strategy, report: PlanReport) -> str:
    """What a strategy computes beside the tokens."""
    if strategy.costs.pads:
        return f"{report.padding:.1%} of what is computed is padding"
    if strategy.costs.mixed > 1 and not strategy.planned:
        return f"no padding, but mixed lengths are {strategy.costs.mixed:g} times slower"
    return "no padding"


def _style_axes(axes: Axes) -> None:
    axes.tick_params(labelsize=_TEXT)
    axes.spines[["top", "right"]].set_visible(False)
