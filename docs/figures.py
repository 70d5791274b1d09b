"""Draw the README's figure, a batch in dataset order beside planned batches, and packing.png. Run by `make figures`.

The texts are those of the quickstart, and a byte-level BPE is trained on them (seconds). No model runs: what a batch
computes follows from the lengths of its rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.batching.costs import PADDED
from lengthwise.batching.plan import BatchPlan, plan_batches, plan_in_order, report_plan
from lengthwise.cli.quickstart import CORPUS, fetch
from lengthwise.config import load_config
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.training import train_tokenizer
from lengthwise.util.plots import BLUE, FAINT, INK, ORANGE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs" / "batches.png"
PACKING_FIGURE = ROOT / "docs" / "packing.png"
ROWS_PER_BATCH = 64  # in dataset order
SHOWN_BATCHES = 6  # of those planned batches that fit on the axis, evenly spread
GAP = 12  # rows between two batches
TITLE, TEXT = 22, 17  # points; the figure is shown at half its size


def quickstart_lengths() -> NDArray[np.int64]:
    """int64[texts], the number of tokens of each text of the quickstart."""
    config = load_config(ROOT / "configs" / "quickstart.yaml")
    corpus = ROOT / config.dataset.path
    fetch(CORPUS, corpus)
    texts = corpus.read_text(encoding="utf-8").splitlines()
    return tokenize_texts(texts, train_tokenizer(texts, config.tokenizer.training)).lengths


def batching_figure(lengths: NDArray[np.int64]) -> Figure:
    """A typical batch in dataset order, and some of the planned batches. The percentages are those of all texts.

    Both sides compute their padding, as onnxruntime does. PyTorch runs packed batches, without any.
    """
    from matplotlib.patches import Patch

    in_order, planned = plan_in_order(lengths, ROWS_PER_BATCH), plan_batches(lengths, PADDED)
    typical = typical_batch(lengths, in_order)
    shown = spread_batches(lengths, planned, int(typical.max()))

    figure = new_figure(16, 7.6)
    left, right = figure.subplots(1, 2, sharex=True)
    left.set_xlim(0, 1.02 * typical.max())
    draw_batches(left, [typical])
    draw_batches(right, shown)
    label_batches(right, shown)
    write_title(left, "Dataset order", lengths, in_order, f"1 of {len(in_order)} batches of {ROWS_PER_BATCH} texts")
    write_title(right, "Planned by length", lengths, planned, f"{len(shown)} of {len(planned)} batches")
    figure.legend(
        handles=[Patch(color=BLUE, label="tokens"), Patch(color=ORANGE, label="padding")],
        loc="outside lower left",
        ncols=2,
        frameon=False,
        fontsize=TEXT,
        title=f"{len(lengths):,} texts, {int(lengths.sum()):,} tokens; each row is a text",
        title_fontsize=TEXT,
        alignment="left",
    )
    return figure


def typical_batch(lengths: NDArray[np.int64], plan: BatchPlan) -> NDArray[np.int64]:
    """The lengths of the full batch whose padding is nearest to that of the whole plan."""
    average = report_plan(lengths, plan, PADDED).padding
    full = [lengths[batch] for batch in plan if len(batch) == ROWS_PER_BATCH]
    return min(full, key=lambda batch: abs(1 - batch.mean() / batch.max() - average))


def spread_batches(lengths: NDArray[np.int64], plan: BatchPlan, longest: int) -> list[NDArray[np.int64]]:
    """The lengths of some batches, evenly spread over those that have no row longer than `longest`."""
    fitting = [lengths[batch] for batch in plan if lengths[batch].max() <= longest]
    spread = np.linspace(0, len(fitting), min(SHOWN_BATCHES, len(fitting)), endpoint=False)
    return [fitting[index] for index in spread.astype(int)]


def draw_batches(axes: Axes, batches: list[NDArray[np.int64]]) -> None:
    """Batches from the top down; each row is a bar of its tokens and its padding."""
    for top, lengths in zip(tops(batches), batches, strict=True):
        rows = top + np.arange(len(lengths))
        axes.barh(rows, lengths, 1.0, align="edge", color=BLUE)
        axes.barh(rows, lengths.max() - lengths, 1.0, left=lengths, align="edge", color=ORANGE)
    axes.set_ylim(tops(batches)[-1] + len(batches[-1]), 0)
    axes.set_xlabel("tokens", fontsize=TEXT)
    axes.set_yticks([])
    axes.tick_params(labelsize=TEXT)
    axes.spines[["top", "right", "left"]].set_visible(False)


def label_batches(axes: Axes, batches: list[NDArray[np.int64]]) -> None:
    """Write the shape of each batch into it, or beside it where it is narrow."""
    for top, lengths in zip(tops(batches), batches, strict=True):
        shortest, longest = int(lengths.min()), int(lengths.max())
        tokens = f"{shortest} to {longest}" if shortest < longest else f"{longest}"
        wide = longest > axes.get_xlim()[1] / 2
        style: dict[str, Any] = {"ha": "center", "color": "white"} if wide else {"ha": "left", "color": INK}
        x, y = longest / 2 if wide else longest + 1, top + len(lengths) / 2
        axes.text(x, y, f"{len(lengths)} texts of {tokens} tokens", va="center", fontsize=TEXT, **style)


def tops(batches: list[NDArray[np.int64]]) -> list[int]:
    """The first row of each batch in the drawing."""
    return [sum(len(above) + GAP for above in batches[:index]) for index in range(len(batches))]


def write_title(axes: Axes, name: str, lengths: NDArray[np.int64], plan: BatchPlan, remark: str) -> None:
    """The name of a plan with its padding over all texts, and a remark below it."""
    padding = report_plan(lengths, plan, PADDED).padding
    axes.set_title(f"{name}: {padding:.1%} padding", fontsize=TITLE, color=INK, loc="left", pad=34)
    axes.text(0, 1.03, remark, transform=axes.transAxes, fontsize=TEXT, color=FAINT)


def packing_figure(rows: list[list[int]], equal: list[list[int]]) -> Figure:
    """A batch padded, the same batch packed, and a batch of rows of one length; each cell holds an id."""
    longest = max(map(len, rows))
    tokens = sum(map(len, rows))
    by_length = sorted(rows, key=len, reverse=True)
    figure = new_figure(16, 4.2)
    padded, packed, same = figure.subplots(1, 3)
    draw_cells(padded, [[*row, *[None] * (longest - len(row))] for row in rows])
    draw_cells(packed, by_length)
    draw_cells(same, equal)
    steps = [sum(len(row) > step for row in rows) for step in range(longest)]
    titles = (
        (padded, f"Padded: {len(rows) * longest} cells for {tokens} tokens", "every cell is computed"),
        (packed, f"Packed: {tokens} cells", f"step by step: {', '.join(map(str, steps))} rows"),
        (same, f"Equal lengths: {sum(map(len, equal))} cells", "one rectangle, one call"),
    )
    for axes, title, remark in titles:
        axes.set_title(title, fontsize=TITLE, color=INK, loc="left", pad=34)
        axes.text(0, 1.05, remark, transform=axes.transAxes, fontsize=TEXT, color=FAINT)
    return figure


def draw_cells(axes: Axes, rows: list[list[int | None]] | list[list[int]]) -> None:
    """A row of cells per row of the batch; padding (None) in its colour."""
    for top, row in enumerate(rows):
        for step, value in enumerate(row):
            colour = ORANGE if value is None else BLUE
            axes.barh(top, 1, 1, left=step, align="edge", color=colour, edgecolor="white", linewidth=3)
            text = "pad" if value is None else str(value)
            axes.text(step + 0.5, top + 0.5, text, ha="center", va="center", color="white", fontsize=TEXT)
    axes.set_xlim(0, 4)
    axes.set_ylim(3, 0)
    axes.axis("off")


if __name__ == "__main__":
    save_figure(packing_figure([[5, 3], [7, 1, 4, 2], [6]], [[5, 3, 9], [7, 1, 4], [6, 8, 2]]), PACKING_FIGURE)
    save_figure(batching_figure(quickstart_lengths()), FIGURE)
