"""The README's figure is drawn from the data, and its percentages are those of the plans."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from helpers.paths import ROOT


@pytest.fixture
def figures() -> ModuleType:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_batching_figure_shows_padding_of_both_plans(figures: ModuleType, tmp_path: Path) -> None:
    lengths = np.tile(np.array([10, 20, 30, 40], np.int64), 32)
    figure = figures.batching_figure(lengths)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Dataset order: 37.5% padding", "Planned by length: 0.0% padding"]
    remarks = [axes.texts[-1].get_text() for axes in figure.axes]
    assert remarks == ["1 of 2 batches of 64 texts", "4 of 4 batches"]
    shapes = [text.get_text() for text in figure.axes[1].texts[:-1]]
    assert shapes == [f"32 texts of {length} tokens" for length in (40, 30, 20, 10)]
    bars = [bar.get_width() for bar in figure.axes[0].patches]
    assert (sum(bars[:64]), sum(bars[64:])) == (64 * 25, 64 * 15)
    figures.save_figure(figure, tmp_path / "batches.png")
    assert (tmp_path / "batches.png").stat().st_size > 1_000


def test_packing_figure_counts_its_cells(figures: ModuleType) -> None:
    figure = figures.packing_figure([[5, 3], [7, 1, 4, 2], [6]], [[5, 3], [7, 1], [6, 8]])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Padded: 12 cells for 7 tokens", "Packed: 7 cells", "Equal lengths: 6 cells"]
    assert [len(axes.patches) for axes in figure.axes] == [12, 7, 6]
    assert figure.axes[1].texts[-1].get_text() == "step by step: 3, 2, 1, 1 rows"
    assert figures.PACKING_FIGURE.is_file()


@pytest.mark.slow
def test_committed_figure_belongs_to_the_quickstart_corpus(figures: ModuleType) -> None:
    pytest.importorskip("randfacts")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lengths = figures.quickstart_lengths()
    padding = figures.report_plan(lengths, figures.plan_in_order(lengths), figures.PADDED).padding
    assert f"{len(lengths):,} texts" in readme
    assert f"{padding:.1%}" in readme.replace(" %", "%")
    assert figures.FIGURE.is_file()
