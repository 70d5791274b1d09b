"""Figures of lengths, plans and stages: their bars, boxes, colours and titles, not their pixels."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from helpers.figures import bars
from lengthwise.batching.costs import PACKED, PADDED, STEPWISE
from lengthwise.batching.inspection import Inspection, Strategy, batch_strategies, inspect_tokens
from lengthwise.errors import LengthwiseError
from lengthwise.run.plots import (
    BEYOND,
    DRAWN_ROWS,
    PADDING,
    TOKENS,
    dataset_figure,
    draw_lengths,
    draw_plan,
    draw_stages,
)
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.util.plots import save_figure

GENERATOR = np.random.default_rng(0)
SHORT = GENERATOR.integers(3, 30, 500)
LONG_TAIL = np.clip(GENERATOR.lognormal(np.log(20), 1.0, 3_000).astype(np.int64), 1, None)
IN_ORDER = Strategy("dataset order, padded", PADDED)
PACKED_IN_ORDER = Strategy("dataset order, packed", PACKED)
PLANNED = Strategy("planned", STEPWISE, planned=True)


def new_axes() -> Axes:
    return Figure().subplots()


def boxes(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_fill()]


def texts(axes: Axes) -> str:
    return "\n".join([axes.get_title(loc="left"), axes.get_xlabel(), *(text.get_text() for text in axes.texts)])


def inspected(lengths: np.ndarray[Any, np.dtype[np.int64]], max_length: int | None = None) -> Inspection:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    values = np.arange(offsets[-1], dtype=np.int32)  # no two rows are equal
    none = np.zeros(len(lengths), np.bool_)
    return inspect_tokens(RaggedTokens(values, offsets, none, none), batch_strategies(STEPWISE), max_length)


# Lengths


@pytest.mark.parametrize(("lengths", "scale"), [(SHORT, "linear"), (LONG_TAIL, "log")])
def test_each_bar_is_as_high_as_its_number_of_rows(lengths: np.ndarray[Any, Any], scale: str) -> None:
    axes = new_axes()
    draw_lengths(axes, np.bincount(lengths))
    drawn = bars(axes, TOKENS)
    assert axes.get_xscale() == scale
    assert sum(bar.get_height() for bar in drawn) == len(lengths)
    for bar in drawn:
        left, right = bar.get_x(), bar.get_x() + bar.get_width()
        assert bar.get_height() == ((lengths > left) & (lengths < right)).sum()
    assert axes.get_xlim()[1] > lengths.max()
    assert axes.get_ylim()[1] > max(bar.get_height() for bar in drawn)
    assert f"half have at most {np.percentile(lengths, 50, method='inverted_cdf')}" in texts(axes)
    assert f"95% have at most {np.percentile(lengths, 95, method='inverted_cdf')}" in texts(axes)
    assert f"the longest has {lengths.max():,}" in texts(axes)


@pytest.mark.parametrize("max_length", [1, 7, 50, 333])
def test_rows_beyond_max_length_have_another_colour(max_length: int) -> None:
    axes = new_axes()
    draw_lengths(axes, np.bincount(LONG_TAIL), max_length)
    beyond = np.count_nonzero(max_length < LONG_TAIL)
    assert beyond
    assert sum(bar.get_height() for bar in bars(axes, BEYOND)) == beyond
    assert sum(bar.get_height() for bar in bars(axes, TOKENS)) == len(LONG_TAIL) - beyond
    assert f"max_length {max_length}: {beyond:,} rows are longer" in texts(axes)


def test_max_length_that_no_row_exceeds_is_not_drawn() -> None:
    axes = new_axes()
    draw_lengths(axes, np.bincount(SHORT), int(SHORT.max()))
    assert not bars(axes, BEYOND)
    assert "max_length" not in texts(axes)


@pytest.mark.parametrize("longest", [1, 2, 40, 41, 81])
def test_every_length_has_a_bar(longest: int) -> None:
    lengths = np.arange(1, longest + 1)
    for max_length in (None, 1, -(-longest // 2), max(1, longest - 1)):
        axes = new_axes()
        draw_lengths(axes, np.bincount(lengths), max_length)
        assert sum(bar.get_height() for bar in bars(axes, TOKENS)) == min(longest, max_length or longest)


def test_rows_of_no_tokens_are_counted_in_the_title() -> None:
    axes = new_axes()
    draw_lengths(axes, np.array([5, 0, 3]))
    assert sum(bar.get_height() for bar in bars(axes, TOKENS)) == 3
    assert "Lengths of 3 texts; 5 more have no tokens" in texts(axes)
    axes = new_axes()
    draw_lengths(axes, np.array([5]))
    assert "Lengths of 0 texts; 5 more have no tokens" in texts(axes)


# Plans


@pytest.mark.parametrize("strategy", [IN_ORDER, PACKED_IN_ORDER, PLANNED, replace(PLANNED, costs=PACKED)])
def test_each_row_is_drawn_once_in_the_box_of_its_batch(strategy: Strategy) -> None:
    lengths, axes = LONG_TAIL[:150], new_axes()
    end = draw_plan(axes, lengths, strategy)
    rows, drawn = bars(axes, TOKENS), boxes(axes)
    assert sorted(bar.get_width() for bar in rows) == sorted(lengths)
    assert len({bar.get_y() for bar in rows}) == len(lengths)
    assert len(drawn) == len(strategy.plan(lengths))
    for box, batch in zip(drawn, strategy.plan(lengths), strict=True):
        inside = [bar.get_width() for bar in rows if box.get_y() <= bar.get_y() < box.get_y() + box.get_height()]
        assert inside == lengths[batch].tolist()
        assert (box.get_width(), box.get_height()) == (max(inside), len(inside))
    assert end >= max(box.get_y() + box.get_height() for box in drawn)


def test_padding_fills_the_boxes_of_padded_batches() -> None:
    lengths, axes = LONG_TAIL[:150], new_axes()
    draw_plan(axes, lengths, IN_ORDER)
    padding = sum(bar.get_width() for bar in bars(axes, PADDING))
    assert padding > 0
    assert padding + lengths.sum() == sum(box.get_width() * box.get_height() for box in boxes(axes))
    for strategy in (PACKED_IN_ORDER, PLANNED):
        axes = new_axes()
        draw_plan(axes, lengths, strategy)
        assert not bars(axes, PADDING)


def test_panels_show_the_same_rows_and_the_costs_of_all() -> None:
    found = inspected(LONG_TAIL, max_length=100)
    figure = dataset_figure(found)
    histogram, *panels = figure.axes
    assert sum(bar.get_height() for bar in histogram.patches) == len(LONG_TAIL)
    assert bars(histogram, BEYOND)
    shown = sorted(np.minimum(LONG_TAIL, 100)[:DRAWN_ROWS])
    for axes, (strategy, report) in zip(panels, found.strategies, strict=True):
        assert sorted(bar.get_width() for bar in bars(axes, TOKENS)) == shown
        assert axes.get_title(loc="left") == f"{strategy.name}: cost {found.relative_cost(report):.1f}"
        bottom, top = axes.get_ylim()
        assert all(top <= box.get_y() and box.get_y() + box.get_height() <= bottom for box in boxes(axes))
        assert axes.get_xlim()[1] > shown[-1]
    assert {axes.get_xlim() + axes.get_ylim() for axes in panels} == {panels[0].get_xlim() + panels[0].get_ylim()}
    padded, packed, planned = panels
    assert f"{found.strategies[0][1].padding:.1%} of what is computed is padding" in texts(padded)
    assert f"no padding, but mixed lengths are {PACKED.mixed:g} times slower" in texts(packed)
    assert planned.get_title(loc="left") == "planned: cost 1.0"
    assert "no padding" in texts(planned)
    (legend,) = figure.legends
    assert f"the first {DRAWN_ROWS} texts" in legend.get_title().get_text()
    assert f"all {len(LONG_TAIL):,} texts" in legend.get_title().get_text()


def test_dataset_without_tokens_has_a_figure(tmp_path: Path) -> None:
    save_figure(dataset_figure(inspected(np.zeros(3, np.int64))), tmp_path / "none.png")
    assert imread(tmp_path / "none.png").shape[:2] == (1150, 1400)


# Time


def test_stages_are_bars_with_a_line_for_the_run() -> None:
    axes = new_axes()
    draw_stages(axes, {"tokenize": 2.0, "encode": 3.5, "write": 0.5}, 4.0)
    assert [bar.get_width() for bar in bars(axes, TOKENS)] == [2.0, 3.5, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["tokenize", "encode", "write"]
    (line,) = axes.lines
    assert list(line.get_xdata()) == [4.0, 4.0]
    assert axes.get_xlim()[1] > 4.0
    assert "3.5 s" in texts(axes)


# Files


def test_figures_change_no_global_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> dict[str, Any]:
        return {name: rcParams[name] for name in rcParams if name != "backend"}  # which would import pyplot

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    before = settings()
    save_figure(dataset_figure(inspected(LONG_TAIL)), tmp_path / "plan.png")
    assert settings() == before
    assert [path.name for path in tmp_path.iterdir()] == ["plan.png"]


def test_dataset_figure_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LengthwiseError, match=r"install lengthwise\[plot\]"):
        dataset_figure(inspected(SHORT))
