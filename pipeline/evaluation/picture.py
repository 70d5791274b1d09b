"""Quality against speed: which models no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lengthwise.evaluation.evaluate import Evaluation
from lengthwise.evaluation.intervals import Measured
from lengthwise.util.plots import BLUE, FAINT, INK, ORANGE, figure_to_png, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[str, float, Measured]  # name, texts/s, quality
_COLUMNS = 3
_PANEL_INCHES = 4.2


def draw(evaluation: Evaluation) -> bytes | None:
    """The picture as PNG: one panel for the mean of the tasks, one for each task; None if no speed was measured.

    Raises:
        LengthwiseError: matplotlib is not installed.
    """
    panels = _panels(evaluation)
    if not panels:
        return None
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(_PANEL_INCHES * columns, 3.4 * rows)
    for number, (title, points) in enumerate(panels.items(), 1):
        _draw_panel(figure.add_subplot(rows, columns, number), title, points)
    return figure_to_png(figure)


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other point beats in both speed and quality, fastest last."""
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (-one[1], -one[2].value)):
        if not best or point[2].value > best[-1][2].value:
            best.append(point)
    return best[::-1]


def _panels(evaluation: Evaluation) -> dict[str, list[Point]]:
    panels: dict[str, list[Point]] = {"mean": []} if len(evaluation.averaged) > 1 else {}
    panels |= {f"{name} ({task.main})": [] for name, task in evaluation.tasks.items()}
    for model in evaluation.models:
        speed = model.costs and model.costs.texts_per_s
        if not speed:
            continue
        found = {f"{name} ({task.main})": model.main(name, task) for name, task in evaluation.tasks.items()}
        if "mean" in panels:
            found["mean"] = evaluation.quality(model)
        for title, measured in found.items():
            if measured is not None:
                panels[title].append((model.name, speed, measured))
    return {title: points for title, points in panels.items() if points}


def _draw_panel(axes: Axes, title: str, points: Sequence[Point]) -> None:
    best = frontier(points)
    axes.plot([speed for _, speed, _ in best], [one.value for _, _, one in best], color=FAINT, linewidth=1, zorder=1)
    middle = (min(speed for _, speed, _ in points) * max(speed for _, speed, _ in points)) ** 0.5
    for name, speed, measured in points:
        below, above = measured.value - measured.interval.low, measured.interval.high - measured.value
        color = BLUE if name in {one[0] for one in best} else ORANGE
        error = [[max(below, 0)], [max(above, 0)]]
        axes.errorbar([speed], [measured.value], yerr=error, fmt="o", color=color, markersize=5, linewidth=1, zorder=2)
        side = (6, "left") if speed <= middle else (-6, "right")
        axes.annotate(
            name, (speed, measured.value), (side[0], 5), textcoords="offset points", ha=side[1], fontsize=8, color=INK
        )
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.15)
    axes.set_title(title, fontsize=9, color=INK)
    axes.set_xlabel("texts/s", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
