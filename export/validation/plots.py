"""The heat map of a validation: differences from PyTorch by runtime and graph, and what to deploy where.

- Colour is the difference on a logarithmic scale: blue up to the tolerance of float32 on a CPU, then orange to brown.
  Colour-blind people can tell blue from orange, and the scale darkens throughout, so it reads in print.
- Tolerances differ by graph (half precision may differ more), so a value above its row's tolerance has a cross. Colour
  shows the size of a difference, not whether it passes.
- Positions are in inches, from the width of the texts: more rows make the figure longer, not denser.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lengthwise.export.graphs.variants import EVERY_VARIANT
from lengthwise.export.runtimes.base import Runtime, Tolerances
from lengthwise.export.validation.verdict import Validation, Verdict
from lengthwise.util.plots import BLUE, FAINT, INK, figure_to_png, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm
    from matplotlib.figure import Figure

WHAT_TO_DEPLOY = "Which graph to load on each runtime"
_EXPLAINED = (
    "Each figure is the largest difference over a group of cases: from PyTorch, and of a text's vector from itself in"
    " another batch. ✗: above the tolerance of that graph."
)
_SECTIONS: Mapping[bool, str] = MappingProxyType({False: "against PyTorch", True: "against itself in another batch"})
_MARK = "tolerance in float32"
_PLACEHOLDERS = {"refused": "file refused", "not run": "not run", "failed": "stopped with an error", "passed": ""}
_PYTORCH = "pytorch"
_BEST, _WORST = 1e-8, 1.0  # ends of the colour scale
_BLUES = ("#E3F0F9", "#A5D2F0")
_WRONG = "#A83C00"
_ORANGES = ("#F2B84B", "#DB7A12", _WRONG, "#331000")
_GREY, _HATCH = "#EDEDED", "#C4C4C4"

# Sizes in points, then inches.
_FONT = "DejaVu Sans"  # part of matplotlib; has the signs
_TITLE, _TEXT, _SMALL = 16, 11, 9.5
_MARGIN, _SPACE, _ROW, _COLUMN, _BETWEEN = 0.25, 0.2, 0.3, 0.78, 0.14
_BAR = (6.0, 0.2)


@dataclass(frozen=True)
class Row:
    """One row of a heat map: a graph on a runtime, or all graphs of a runtime that was not run.

    Attributes:
        name: of the graph, or the number of graphs.
        worst: by group of cases, the largest difference; empty if nothing was compared.
        placeholder: the text in place of differences.
        verdict: the verdict in two or three words.
        recommended: whether it is the graph to use on this runtime.
        tolerances: the limits that apply.
        needed: by group, the tolerance that it takes, where that is not the difference itself.
    """

    name: str
    worst: Mapping[str, float]
    placeholder: str
    verdict: str
    recommended: bool
    tolerances: Tolerances
    needed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Layout:
    """Horizontal positions in inches.

    Attributes:
        graphs: left edge of the graphs' names.
        cells: left edge of each group of cases.
        of_batch: by group, whether it compares a runtime with itself.
        span: left edge of the first cell and right edge of the last.
        verdicts: left edge of the verdicts.
        width: of the whole figure.
    """

    graphs: float
    cells: Mapping[str, float]
    of_batch: Mapping[str, bool]
    span: tuple[float, float]
    verdicts: float
    width: float


def draw_heat_map(validation: Validation, title: str = WHAT_TO_DEPLOY) -> bytes:
    """The largest differences by runtime, graph and group of cases, as the bytes of a PNG file.

    Raises:
        LengthwiseError: matplotlib is not installed.
    """
    return figure_to_png(heat_map_figure(validation, title))


def heat_map_figure(validation: Validation, title: str = WHAT_TO_DEPLOY) -> Figure:
    """The figure of `draw_heat_map`, see `rows_figure`."""
    tolerances = _float32_tolerances(validation.verdicts)
    return rows_figure(_rows(validation), _groups(validation.verdicts), tolerances, title)


def rows_figure(
    sections: Mapping[str, Sequence[Row]],
    groups: Mapping[str, bool],
    tolerances: Mapping[float, Sequence[str]],
    title: str,
    explained: str = _EXPLAINED,
    heads: Mapping[bool, str] = _SECTIONS,
    mark: str = _MARK,
) -> Figure:
    """Rows of differences: axes in inches from the top left, and the axes of the colour bar.

    Args:
        sections: rows by what they have in common, such as the runtime.
        groups: the columns, and under which of the two heads each is.
        tolerances: marks of the colour bar, and what each applies to.
        title: of the figure.
        explained: the sentences below the title.
        heads: of the columns.
        mark: what the marks of the colour bar are.

    Raises:
        LengthwiseError: matplotlib is not installed.
    """
    figure = new_figure(1, 1)  # resized once the height is known
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    layout = _arrange(sections, groups)
    top = _draw_title(axes, layout, title, explained)
    top = _draw_sections(axes, layout, top, heads)
    top = _draw_groups(axes, layout, top)
    for name, rows in sections.items():
        top = _draw_runtime(axes, layout, name, rows, top)
    if layout.cells:
        top = _write_tolerances(axes, layout, tolerances, top + _SPACE, mark)
    height = top + (0.8 if layout.cells else _MARGIN)
    figure.set_size_inches(layout.width, height)
    axes.set(xlim=(0, layout.width), ylim=(height, 0))
    if layout.cells:
        (left, _), (width, thick) = layout.span, _BAR
        bottom = 1 - (top + 0.15 + thick) / height
        bar = figure.add_axes((left / layout.width, bottom, width / layout.width, thick / height))
        _draw_colour_bar(figure, bar, tolerances)
    return figure


def _rows(validation: Validation) -> dict[str, list[Row]]:
    """Rows by runtime, PyTorch's first."""
    by_runtime: dict[str, list[Verdict]] = {}
    for verdict in sorted(validation.verdicts, key=lambda verdict: not verdict.runtime.startswith(_PYTORCH)):
        by_runtime.setdefault(verdict.runtime, []).append(verdict)
    found = {}
    for runtime, verdicts in by_runtime.items():
        rows = [_row(verdict, validation.recommended.get(runtime) == verdict.variant) for verdict in verdicts]
        if len(rows) > 1 and all(verdict.status == "not run" for verdict in verdicts):
            rows = [replace(rows[0], name=f"all {len(rows)} graphs")]
        found[runtime] = rows
    return found


def _row(verdict: Verdict, recommended: bool) -> Row:
    cases = verdict.comparison.worst_by_group()
    worst, needed = ({name: getattr(case, of) for name, case in cases.items()} for of in ("difference", "needed"))
    placeholder = "" if cases else _PLACEHOLDERS[verdict.status]
    label = _verdict_label(verdict, recommended)
    return Row(verdict.variant, worst, placeholder, label, recommended, verdict.tolerances, needed)


def _verdict_label(verdict: Verdict, recommended: bool) -> str:
    found, passes = verdict.comparison, verdict.tolerances
    if verdict.status == "passed":
        return "✓ use this" if recommended else "✓ passes"
    if verdict.status != "failed":
        return "–"
    if found.difference is None or found.batch_difference is None:
        return "✗ error"
    needed, by_batch = found.needed(of_batch=False) or 0.0, found.needed(of_batch=True) or 0.0
    if verdict.coarse:
        return "✗ too coarse"
    of_vectors = needed <= passes.difference and (found.cosine is None or found.cosine >= passes.cosine)
    if not of_vectors or not found.changed_share <= passes.labels:
        return "✗ wrong here"
    if not by_batch <= passes.batch or not EVERY_VARIANT[verdict.variant].independent:
        return "✗ depends on batch"
    return "✗ error"


def _groups(verdicts: Iterable[Verdict]) -> dict[str, bool]:
    """Groups of cases, and whether they compare a runtime with itself; those are last."""
    found = {case.group: case.of_batch for verdict in verdicts for case in verdict.comparison.cases}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _float32_tolerances(verdicts: Iterable[Verdict]) -> dict[float, list[str]]:
    """The tolerances of float32, and the runtimes of each, of those that were compared."""
    found: dict[float, list[str]] = {}
    for verdict in verdicts:
        if verdict.comparison.cases and EVERY_VARIANT[verdict.variant].exact:
            names = found.setdefault(verdict.tolerances.difference, [])
            names += [verdict.runtime] if verdict.runtime not in names else []
    return found


def _arrange(runtimes: Mapping[str, Sequence[Row]], of_batch: Mapping[str, bool]) -> _Layout:
    rows = [row for found in runtimes.values() for row in found]
    graphs = _MARGIN + _widest(runtimes) + _SPACE
    left = graphs + _widest(row.name for row in rows) + _SPACE
    between = _SPACE if len(set(of_batch.values())) == 2 else 0
    cells = {
        group: left + place * _COLUMN + between * of_itself for place, (group, of_itself) in enumerate(of_batch.items())
    }
    end = left + max(len(cells), 2) * _COLUMN + between
    width = end + _SPACE + _widest(row.verdict for row in rows) + _SPACE / 2 + _MARGIN
    least = left + _BAR[0] + 2 * _MARGIN
    return _Layout(graphs, cells, of_batch, (left, end), end + _SPACE, max(width, least))


def _draw_title(axes: Axes, layout: _Layout, title: str, explained: str) -> float:
    """Returns the bottom edge, as the functions below do."""
    width = layout.width - 2 * _MARGIN
    top = _write_lines(axes, _MARGIN, _MARGIN, _wrap(title, width, _TITLE, "bold"), _TITLE, weight="bold")
    lines = _wrap(explained, width, _TEXT) if layout.cells else []
    return _write_lines(axes, _MARGIN, top + 0.05, lines, color=FAINT) + _SPACE


def _draw_sections(axes: Axes, layout: _Layout, top: float, heads: Mapping[bool, str]) -> float:
    """The headings of the two sections, each over a line."""
    spans = {
        of_batch: (min(lefts), max(lefts) + _COLUMN)
        for of_batch in (False, True)
        if (lefts := [left for group, left in layout.cells.items() if layout.of_batch[group] == of_batch])
    }
    wrapped = {
        of_batch: _wrap(heads[of_batch], right - left, _TEXT, "bold") for of_batch, (left, right) in spans.items()
    }
    bottom = top + max(map(_height, wrapped.values()), default=0)
    for of_batch, (left, right) in spans.items():
        lines = wrapped[of_batch]
        _write_lines(axes, left, bottom - _height(lines), lines, weight="bold")
        axes.plot([left, right], [bottom + 0.04] * 2, color=INK, linewidth=1)
    return bottom + 0.04


def _draw_groups(axes: Axes, layout: _Layout, top: float) -> float:
    """The names of the groups of cases, aligned at the bottom."""
    names = {group: _wrap(group, _COLUMN - 0.06, _SMALL) for group in layout.cells}
    bottom = top + 0.08 + max((_height(lines, _SMALL) for lines in names.values()), default=0)
    for group, lines in names.items():
        centre = layout.cells[group] + _COLUMN / 2
        _write_lines(axes, centre, bottom - _height(lines, _SMALL), lines, _SMALL, ha="center")
    return bottom + 0.06


def _draw_runtime(axes: Axes, layout: _Layout, runtime: str, rows: Sequence[Row], top: float) -> float:
    axes.plot([_MARGIN, layout.width - _MARGIN], [top, top], color=_GREY, linewidth=1)
    top += _BETWEEN / 2
    _write(axes, _MARGIN, top + _ROW / 2, runtime, weight="bold")
    for row in rows:
        _draw_row(axes, layout, row, top)
        top += _ROW
    return top + _BETWEEN / 2


def _draw_row(axes: Axes, layout: _Layout, row: Row, top: float) -> None:
    (left, right), middle = layout.span, top + _ROW / 2
    if row.worst:
        _draw_cells(axes, layout, row, top)
    else:
        _draw_box(axes, left, top, right - left, facecolor=_GREY, hatch="////")
        plain = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        _write(axes, (left + right) / 2, middle, row.placeholder, _SMALL, FAINT, ha="center", bbox=plain)
    weight, colour = "normal", _WRONG if row.verdict.startswith("✗") else INK
    if row.recommended:
        weight, colour = "bold", "white"
        _draw_box(axes, layout.verdicts - 0.08, top, layout.width - _MARGIN - layout.verdicts + 0.08, facecolor=BLUE)
    _write(axes, layout.graphs, middle, row.name, weight=weight)
    _write(axes, layout.verdicts, middle, row.verdict, color=colour, weight=weight)


def _draw_cells(axes: Axes, layout: _Layout, row: Row, top: float) -> None:
    """Differences as colours and numbers; hatched if there is none."""
    norm, colours = _colours()
    for group, left in layout.cells.items():
        difference = row.worst.get(group)
        if difference is None:
            _draw_box(axes, left, top, _COLUMN, facecolor=_GREY, hatch="////")
            continue
        colour, words = colours(float(norm(difference))), _short(difference)
        limit = row.tolerances.batch if layout.of_batch[group] else row.tolerances.difference
        passes = row.needed.get(group, difference) <= limit
        words, weight = (words, "normal") if passes else (f"✗ {words}", "bold")
        _draw_box(axes, left, top, _COLUMN, facecolor=colour)
        _write(axes, left + _COLUMN / 2, top + _ROW / 2, words, _SMALL, _ink_on(colour), ha="center", weight=weight)


def _draw_box(axes: Axes, left: float, top: float, width: float, **look: Any) -> None:
    from matplotlib.patches import Rectangle

    edges = {"edgecolor": _HATCH, "linewidth": 0.6} if "hatch" in look else {"linewidth": 0}
    axes.add_patch(Rectangle((left + 0.01, top + 0.01), width - 0.02, _ROW - 0.02, **edges, **look))


def _write_tolerances(
    axes: Axes, layout: _Layout, tolerances: Mapping[float, Sequence[str]], top: float, mark: str
) -> float:
    """The legend of the marks on the colour bar, above it."""
    left, _ = layout.span
    words = "difference"
    if tolerances:
        most, *others = sorted(tolerances, key=lambda tolerance: -len(tolerances[tolerance]))
        rest = "".join(f"; {_short(tolerance)} on {', '.join(tolerances[tolerance])}" for tolerance in others)
        words += f"; ▼ {mark}: {_short(most)}{rest}"
    return _write_lines(axes, left, top, _wrap(words, layout.width - _MARGIN - left, _SMALL), _SMALL)


def _draw_colour_bar(figure: Figure, bar: Axes, tolerances: Iterable[float]) -> None:
    from matplotlib.cm import ScalarMappable

    ticks = [10.0**power for power in range(-8, 1)]
    figure.colorbar(ScalarMappable(*_colours()), cax=bar, orientation="horizontal", ticks=ticks)
    names = [_short(tick) for tick in ticks]
    bar.set_xticklabels([f"≤ {names[0]}", *names[1:-1], f"≥ {names[-1]}"], fontsize=_SMALL, family=_FONT, color=INK)
    bar.minorticks_off()
    for tolerance in tolerances:
        bar.axvline(tolerance, color=INK, linewidth=2)
        bar.plot(tolerance, 1.3, "v", transform=bar.get_xaxis_transform(), color=INK, markersize=6, clip_on=False)


def _colours() -> tuple[LogNorm, Colormap]:
    """A map of differences to colours, clipped at both ends; blue turns to orange at the usual tolerance."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    norm = LogNorm(_BEST, _WORST, clip=True)
    places = [_BEST, Runtime.tolerance, Runtime.tolerance, 2e-3, 6e-2, _WORST]
    stops = [(float(norm(place)), colour) for place, colour in zip(places, _BLUES + _ORANGES, strict=True)]
    return norm, LinearSegmentedColormap.from_list("difference", stops)


def _ink_on(colour: tuple[float, float, float, float]) -> str:
    """Black or white, by contrast (https://www.w3.org/TR/WCAG21/#dfn-relative-luminance)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _short(difference: float) -> str:
    """One digit: 1e-7, 0.4, 3, 2e3."""
    if math.isinf(difference):
        return "∞"
    if difference == 0 or 0.0095 <= difference < 9.5:
        return f"{difference:.1g}"
    digit, exponent = f"{difference:.0e}".split("e")
    return f"{digit}e{int(exponent)}"


def _write(
    axes: Axes, left: float, middle: float, words: str, size: float = _TEXT, color: str = INK, **look: Any
) -> None:
    axes.text(left, middle, words, fontsize=size, color=color, family=_FONT, va="center", parse_math=False, **look)


def _write_lines(
    axes: Axes, left: float, top: float, lines: Sequence[str], size: float = _TEXT, color: str = INK, **look: Any
) -> float:
    """Returns the bottom edge of the last line."""
    for number, line in enumerate(lines):
        _write(axes, left, top + (number + 0.5) * _height([line], size), line, size, color, **look)
    return top + _height(lines, size)


def _height(lines: Sequence[str], size: float = _TEXT) -> float:
    return len(lines) * 1.3 * size / 72


def _wrap(words: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """Lines of at most `width` inches; a longer word gets a line of its own."""
    lines: list[str] = []
    for word in words.split():
        if lines and _width(f"{lines[-1]} {word}", size, weight) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _widest(texts: Iterable[str]) -> float:
    return max((_width(text, _TEXT, "bold") for text in texts), default=0)


def _width(words: str, size: float, weight: str) -> float:
    """Inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    properties = FontProperties(family=_FONT, size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(words, properties, ismath=False)
    return width / 72
