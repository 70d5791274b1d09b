"""The picture of a validation, read back from what was drawn: words by line, boxes and their colours, not pixels."""

from __future__ import annotations

import io
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from lengthwise.errors import LengthwiseError
from lengthwise.export.graphs.variants import FP16, INT8, INT8_DYNAMIC, NATIVE, PORTABLE, VARIANTS
from lengthwise.export.runtimes.base import Tolerances
from lengthwise.export.validation.cases import EVERY_ID, GOLDEN, TEXTS
from lengthwise.export.validation.compare import ALONE, ANOTHER_ORDER, MORE_PADDING, CaseResult, Comparison
from lengthwise.export.validation.plots import draw_heat_map, heat_map_figure
from lengthwise.export.validation.verdict import Validation, Verdict
from lengthwise.util.plots import BLUE

GRID = (
    "equal lengths",
    "all of one token",
    "one long, the rest one token",
    "unsorted",
    "unsorted, axis longer than any row",
    "some rows without tokens",
)
FROM_PYTORCH, FROM_ITSELF = (*GRID, EVERY_ID, TEXTS, GOLDEN), (MORE_PADDING, ANOTHER_ORDER, ALONE)
WIDTH, CELL = len(FROM_PYTORCH) + len(FROM_ITSELF), 0.78


def verdict(
    runtime: str,
    variant: str = NATIVE,
    status: Any = "passed",
    differences: Sequence[float] = (1e-7,) * len(FROM_PYTORCH),
    of_batch: Sequence[float] = (1e-7, 0.0, 1e-7),
    cosine: float | None = 1.0,
    usual: float = 1e-6,
) -> Verdict:
    """A verdict on cases of which each group's second is the worse; they come in the order of a real comparison."""
    pairs = [(group, False, value) for group, value in zip(FROM_PYTORCH, differences, strict=False)]
    pairs[1:1] = [(group, True, value) for group, value in zip(FROM_ITSELF, of_batch, strict=False)]
    cases = tuple(
        CaseResult(group, group, own, value * part, value * part) for part in (0.5, 1) for group, own, value in pairs
    )
    passes = Tolerances(VARIANTS[variant].difference or usual, usual, VARIANTS[variant].cosine)
    comparison = Comparison(max(differences), max(of_batch), 1e-8, cosine, cases=cases)
    file = VARIANTS[variant].file
    return Verdict(runtime, variant, file, status, "", False, passes, comparison, {})


def not_run(runtime: str, variant: str, status: Any = "not run") -> Verdict:
    return replace(verdict(runtime, variant), status=status, comparison=Comparison())


def validation(*verdicts: Verdict) -> Validation:
    return Validation(verdicts, verdict("control: lengths ignored", status="failed"), True)


WRONG = (1e-7, 1e-7, *(0.4,) * (len(FROM_PYTORCH) - 2))
SMALL = validation(verdict("onnxruntime cpu"), verdict("onnxruntime cpu", PORTABLE))
FULL = validation(
    *(verdict("onnxruntime cpu", name) for name in (NATIVE, PORTABLE)),
    verdict("onnxruntime cpu", FP16, differences=(2e-4,) * len(FROM_PYTORCH)),
    verdict("onnxruntime cpu", INT8_DYNAMIC, "failed", (2e-3,) * len(FROM_PYTORCH), (6e-3, 0.0, 6e-3)),
    *(verdict("onnxruntime cuda", name, differences=(3e-6,) * len(FROM_PYTORCH), usual=1e-5) for name in VARIANTS),
    *(not_run("onnxruntime-web (wasm)", name) for name in VARIANTS),
    verdict("openvino", NATIVE, "failed", WRONG, (0.4, 0.0, 0.4)),
    *(verdict("openvino", name) for name in (PORTABLE, FP16, INT8)),
    verdict("onnx reference", NATIVE, "failed", (math.inf,) * len(FROM_PYTORCH), (math.inf,) * 3),
    verdict("onnx reference", PORTABLE),
    *(not_run("onnx reference", name, "refused") for name in (INT8, INT8_DYNAMIC)),
    *(verdict(f"another runtime {number}", name) for number in range(5) for name in (NATIVE, PORTABLE, FP16)),
    verdict("pytorch (packed batches)"),
    verdict("pytorch (step-wise)"),
)


def lines(figure: Figure) -> list[list[str]]:
    """Words by line from the top, each from the left."""
    found: dict[float, list[Text]] = {}
    for text in figure.axes[0].texts:
        found.setdefault(round(text.get_position()[1], 4), []).append(text)
    ordered = (sorted(found[height], key=lambda text: text.get_position()[0]) for height in sorted(found))
    return [[text.get_text() for text in texts] for texts in ordered]


def rows(figure: Figure) -> list[list[str]]:
    """The lines of graphs."""
    all_lines = lines(figure)
    after = max((place for place, line in enumerate(all_lines) if {"lengths", "alone"} <= set(line)), default=0)
    return [line for line in all_lines[after + 1 :] if len(line) > 1]


def words(figure: Figure) -> str:
    return "\n".join(" ".join(line) for line in lines(figure))


def boxes(figure: Figure, hatched: bool = False) -> list[Rectangle]:
    patches = figure.axes[0].patches
    return [box for box in patches if isinstance(box, Rectangle) and bool(box.get_hatch()) == hatched]


def written_in(figure: Figure, box: Rectangle) -> list[Text]:
    left, top = box.get_xy()
    inside = Bbox.from_bounds(left, top, box.get_width(), box.get_height())
    return [text for text in figure.axes[0].texts if inside.contains(*text.get_position())]


def cell_colours(figure: Figure) -> list[str]:
    """Of a figure with one graph, the colours of its cells from the left."""
    cells = [box for box in boxes(figure) if box.get_width() < CELL and to_hex(box.get_facecolor()) != BLUE.lower()]
    return [to_hex(box.get_facecolor()) for box in sorted(cells, key=lambda box: box.get_x())]


def darkness(colour: str) -> float:
    return 1 - float(np.dot([int(colour[place : place + 2], 16) for place in (1, 3, 5)], [0.299, 0.587, 0.114])) / 255


# Rows


def test_row_has_runtime_graph_differences_and_verdict() -> None:
    differences = (0.0, 9e-10, 1e-7, 2.4e-7, 9.9e-7, 1e-8, 5e-7, 0.0, 1e-7)
    figure = heat_map_figure(validation(verdict("onnxruntime cpu", differences=differences)))
    shown = ["0", "9e-10", "1e-7", "2e-7", "1e-6", "1e-8", "5e-7", "0", "1e-7", "1e-7", "0", "1e-7"]
    assert rows(figure) == [["onnxruntime cpu", "native", *shown, "✓ use this"]]


def test_differences_have_one_digit() -> None:
    differences = (0.0096, 0.0117, 0.36, 0.97, 3.2, 12.0, 2_345.0, 4e-3, math.inf)
    figure = heat_map_figure(validation(verdict("one", status="failed", differences=differences)))
    shown = ("0.01", "0.01", "0.4", "1", "3", "1e1", "2e3", "4e-3", "∞")
    assert rows(figure)[0][2:11] == [f"✗ {short}" for short in shown]


def test_pytorch_is_first_and_each_runtime_named_once() -> None:
    figure = heat_map_figure(FULL)
    found = rows(figure)
    assert [row[0] for row in found[:3]] == ["pytorch (packed batches)", "pytorch (step-wise)", "onnxruntime cpu"]
    assert [row[0] for row in found[3:6]] == ["portable", "fp16", "int8_dynamic"]
    named = [word for row in found for word in row]
    for runtime in {verdict.runtime for verdict in FULL.verdicts}:
        assert named.count(runtime) == 1
    web = next(row for row in found if row[0] == "onnxruntime-web (wasm)")
    assert web == ["onnxruntime-web (wasm)", "all 5 graphs", "not run", "–"]
    assert len(found) == len(FULL.verdicts) - 4  # of the web runtime's


def test_only_the_recommended_graph_is_highlighted() -> None:
    figure = heat_map_figure(FULL)
    bold = {text.get_position()[1] for text in figure.axes[0].texts if text.get_text() == "✓ use this"}
    assert len(bold) == len(FULL.recommended) == 11
    pills = [box for box in boxes(figure) if to_hex(box.get_facecolor()) == BLUE.lower()]
    assert [text.get_text() for box in pills for text in written_in(figure, box)] == ["✓ use this"] * 11
    graphs = [text for text in figure.axes[0].texts if text.get_text() in VARIANTS]
    assert {text.get_position()[1] for text in graphs if text.get_weight() == "bold"} == bold
    verdicts = [row[-1] for row in rows(figure) if row[0] in ("openvino", "portable")]
    assert verdicts[1:3] == ["✓ passes", "✗ wrong here"]  # cuda's portable graph, openvino's native one
    assert verdicts[3] == "✓ use this"  # openvino's portable one


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (verdict("one", FP16), "✓ passes"),  # nothing below float32 is recommended
        (verdict("one", status="failed", differences=WRONG), "✗ wrong here"),
        (verdict("one", status="failed", differences=(math.inf,) * 9), "✗ wrong here"),
        (verdict("one", FP16, "failed", cosine=0.9), "✗ wrong here"),
        (verdict("one", FP16, "failed", cosine=math.nan), "✗ wrong here"),
        (replace(verdict("one", INT8, "failed", cosine=0.9), coarse=True), "✗ too coarse"),
        (verdict("one", status="failed", of_batch=(0.1, 0.0, 0.0)), "✗ depends on batch"),
        (verdict("one", INT8_DYNAMIC, "failed"), "✗ depends on batch"),  # although these cases do not show it
        (verdict("one", status="failed"), "✗ error"),
        (not_run("one", NATIVE, "failed"), "✗ error"),
        (not_run("one", NATIVE, "refused"), "–"),
        (not_run("one", NATIVE), "–"),
    ],
)
def test_verdict_labels(found: Verdict, word: str) -> None:
    assert rows(heat_map_figure(validation(verdict("pytorch"), found)))[1][-1] == word


def test_grey_bar_explains_missing_differences() -> None:
    refused, failed = not_run("one", INT8, "refused"), not_run("one", FP16, "failed")
    figure = heat_map_figure(validation(verdict("one"), refused, failed, not_run("two", NATIVE)))
    assert [row[-3:] for row in rows(figure)[1:]] == [
        ["int8", "file refused", "–"],
        ["fp16", "stopped with an error", "✗ error"],
        ["native", "not run", "–"],  # its only graph is named
    ]
    assert all(box.get_width() > WIDTH * CELL for box in boxes(figure, hatched=True))
    assert len(boxes(figure, hatched=True)) == 3


def test_graph_that_was_not_run_has_a_row() -> None:
    figure = heat_map_figure(validation(verdict("one"), not_run("one", FP16), not_run("one", INT8)))
    assert [row[-3:] for row in rows(figure)[1:]] == [["fp16", "not run", "–"], ["int8", "not run", "–"]]


def test_cells_without_a_difference_are_hatched() -> None:
    crashed = verdict("two", status="failed", differences=WRONG[:3], of_batch=(1e-7,))
    figure = heat_map_figure(validation(verdict("one"), crashed))
    assert rows(figure)[1] == ["two", "native", "1e-7", "1e-7", "✗ 0.4", "1e-7", "✗ wrong here"]
    assert len(boxes(figure, hatched=True)) == WIDTH - 4
    assert not any(written_in(figure, box) for box in boxes(figure, hatched=True))


def test_validation_without_a_run_has_a_figure() -> None:
    figure = heat_map_figure(validation(*(not_run("one", name) for name in VARIANTS)))
    assert lines(figure)[1:] == [["one", "all 5 graphs", "not run", "–"]]
    assert len(figure.axes) == 1
    assert draw_heat_map(validation())


# Columns


def test_comparisons_with_itself_are_last() -> None:
    figure = heat_map_figure(SMALL)
    last = next(line for line in lines(figure) if "alone" in line)
    of_grid = ["lengths", "token", "one token", "unsorted", "row", "tokens"]
    assert last == [*of_grid, "vocabulary", "real texts", "vectors", "padding", "order", "alone"]
    cells = sorted({box.get_x() for box in boxes(figure) if box.get_width() < CELL})[:WIDTH]
    steps = np.round(np.diff(cells), 4)
    assert steps.argmax() == len(FROM_PYTORCH) - 1
    assert len(set(np.delete(steps, steps.argmax()))) == 1
    assert "against PyTorch" in words(figure)
    assert "against itself in another batch" in words(figure).replace("\n", " ").replace("against PyTorch ", "")


# Colours


def test_cells_darken_with_the_difference_and_blue_ends_at_the_float32_tolerance() -> None:
    differences = (1e-8, 1e-7, 9e-7, 2e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
    colours = cell_colours(heat_map_figure(validation(verdict("one", status="failed", differences=differences))))
    dark = [darkness(colour) for colour in colours[: len(differences)]]
    assert dark == sorted(dark)
    assert min(np.diff(dark)) > 0.015
    blue = [int(colour[5:], 16) > int(colour[1:3], 16) for colour in colours[: len(differences)]]
    assert blue == [difference <= 1e-6 for difference in differences]


def test_zero_and_infinity_are_at_the_ends_of_the_scale() -> None:
    best = verdict("one", differences=(0.0, 1e-12, 1e-8), of_batch=(0.0, 0.0, 0.0))
    worst = verdict("one", status="failed", differences=(1.0, 50.0, math.inf))
    assert len(set(cell_colours(heat_map_figure(validation(best))))) == 1
    figure = heat_map_figure(validation(worst))
    assert len(set(cell_colours(figure)[:3])) == 1
    assert rows(figure)[0][2:5] == ["✗ 1", "✗ 5e1", "✗ ∞"]


def test_cross_marks_values_above_the_rows_tolerance() -> None:
    half = verdict("one", FP16, "failed", (0.01, 0.03), (2e-6, 1e-6, 0.0))
    single = verdict("one", NATIVE, "failed", (0.01, 1e-6), (2e-6, 1e-6, 0.0))
    on_gpu = verdict("two", NATIVE, "passed", (3e-6, 3e-5), (2e-6, 1e-6, 0.0), usual=1e-5)
    found = rows(heat_map_figure(validation(half, single, on_gpu, verdict("three"))))
    assert [[word.startswith("✗") for word in row[-6:-1]] for row in found[:3]] == [
        [False, True, True, False, False],
        [True, False, True, False, False],
        [False, True, False, False, False],
    ]


def test_text_is_black_on_light_and_white_on_dark_cells() -> None:
    differences = (0.0, 1e-7, 1e-6, 1e-5, 1e-3, 0.01, 0.1, 0.5, math.inf)
    figure = heat_map_figure(validation(verdict("one", status="failed", differences=differences)))
    inks = set()
    for box in boxes(figure):
        (text,) = written_in(figure, box)
        contrast = abs(darkness(to_hex(text.get_color())) - darkness(to_hex(box.get_facecolor())))
        assert contrast > 0.3
        inks.add(to_hex(text.get_color()))
    assert inks == {"#000000", "#ffffff"}


def test_colour_bar_marks_the_tolerances() -> None:
    figure = heat_map_figure(FULL)
    bar = figure.axes[1]
    marks = [line.get_xdata() for line in bar.lines if line.get_marker() == "v"]
    assert sorted(float(mark[0]) for mark in marks) == [1e-6, 1e-5]
    assert "tolerance in float32: 1e-6; 1e-5 on onnxruntime cuda" in words(figure)
    labels = [label.get_text() for label in bar.get_xticklabels()]
    assert labels == ["≤ 1e-8", "1e-7", "1e-6", "1e-5", "1e-4", "1e-3", "0.01", "0.1", "≥ 1"]
    assert words(heat_map_figure(SMALL)).endswith("tolerance in float32: 1e-6")
    assert words(heat_map_figure(validation(verdict("one", FP16)))).endswith("\ndifference")  # no float32


# The picture as a whole


@pytest.mark.parametrize(
    ("found", "title"),
    [
        (FULL, "A title"),
        (FULL, "A title of so many words that it takes several lines " * 6),
        (SMALL, "A title with $signs$ of mathematics_in it"),
        (validation(verdict("one")), "A title"),
        (validation(verdict("one", differences=(1e-7,), of_batch=(1e-7,))), "A title of some more words " * 6),
        (validation(not_run("one", NATIVE)), "A title of so many words that it takes several lines " * 6),
    ],
)
def test_no_text_is_cut_off_or_overlaps(found: Validation, title: str) -> None:
    figure = heat_map_figure(found, title)
    assert words(figure).replace("\n", " ").startswith(title.strip())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a sign that the font lacks
        figure.draw_without_rendering()
    texts = [*figure.axes[0].texts, *(label for bar in figure.axes[1:] for label in bar.get_xticklabels())]
    places = [text.get_window_extent() for text in texts]
    for text, place in zip(texts, places, strict=True):
        assert figure.bbox.x0 < place.x0 < place.x1 < figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 < place.y0 < place.y1 < figure.bbox.y1, text.get_text()
    for (one, place), (other, elsewhere) in combinations(zip(texts, places, strict=True), 2):
        assert not place.overlaps(elsewhere), (one.get_text(), other.get_text())


def test_png_grows_with_the_rows() -> None:
    few, many = (validation(*(verdict(f"runtime {number:02}") for number in range(rows))) for rows in (2, 40))
    images = [draw_heat_map(found) for found in (few, many)]
    assert all(image.startswith(b"\x89PNG\r\n\x1a\n") for image in images)
    (low, narrow, _), (high, wide, _) = (imread(io.BytesIO(image)).shape for image in images)
    assert high - low > 30 * 38
    assert wide == narrow


def test_nothing_global_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> dict[str, Any]:
        return {name: rcParams[name] for name in rcParams if name != "backend"}  # which would import pyplot

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    before = settings()
    draw_heat_map(SMALL)
    assert settings() == before


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LengthwiseError, match=r"install lengthwise\[plot\]"):
        draw_heat_map(SMALL)
