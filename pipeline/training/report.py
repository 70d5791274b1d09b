"""What a training run was, and how its losses went: `report.json`, `report.md` and `curves.png` in its folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise.config import RunConfig
from lengthwise.errors import LengthwiseError
from lengthwise.training.examples import Examples
from lengthwise.training.loop import Trainer
from lengthwise.util.files import write_atomically
from lengthwise.util.markdown import RIGHT, markdown_table
from lengthwise.util.plots import BLUE, FAINT, INK, ORANGE, VERMILION, figure_to_png, new_figure
from lengthwise.util.system import cpu_count, cpu_model, package_versions
from lengthwise.util.text_files import read_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES, REPORT, RECORD = "curves.png", "report.md", "report.json"
_COLOURS = (BLUE, ORANGE, VERMILION, FAINT, INK)
_REASONS = {
    "steps": "all steps were made",
    "time": "train.max_minutes were over",
    "patience": "the held-out loss had not fallen for train.validation.patience validations",
}


@dataclass(frozen=True)
class TrainReport:
    """What a training run did.

    Attributes:
        model: the checkpoint folder that was written.
        dim: the width of its vectors.
        steps: how many steps were made.
        stopped: why training ended: "steps", "time" or "patience".
        tokens: how many tokens were trained on.
        seconds: the time that training took, without reading and without the teacher.
        best_step: after which step the weights are; 0 where nothing was held out and they are the last ones.
        best_loss: the weighted held-out loss there; None where nothing was held out.
        losses: the last held-out loss of each source.
        accuracies: the held-out accuracy of that validation, of each source that has classes.
        rows: by source, how many rows were learned from, held out, and left out.
    """

    model: str
    dim: int
    steps: int
    stopped: str
    tokens: int
    seconds: float
    best_step: int
    best_loss: float | None
    losses: Mapping[str, float]
    accuracies: Mapping[str, float]
    rows: Mapping[str, Sequence[int]]

    @property
    def tokens_per_second(self) -> float:
        """Tokens that were trained on per second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def read_report(folder: Path) -> TrainReport | None:
    """The report of a finished run; None where there is none that can be read."""
    try:
        return TrainReport(**json.loads(read_text(folder / RECORD)))
    except (OSError, ValueError, TypeError):
        return None


def write_report(
    folder: Path, config: RunConfig, trainer: Trainer, examples: Sequence[Examples], lines: Sequence[Mapping[str, Any]]
) -> TrainReport:
    """Write the report of a finished run, with curves where matplotlib is installed.

    Args:
        lines: of the log.

    Raises:
        StoreError: a file cannot be written.
    """
    report = TrainReport(
        model=config.model.path,
        dim=trainer.encoder.config.dim,
        steps=trainer.step,
        stopped=trainer.stopped,
        tokens=trainer.tokens,
        seconds=trainer.seconds,
        best_step=trainer.best_step,
        best_loss=trainer.best_loss,
        losses=trainer.losses,
        accuracies=trainer.accuracies,
        rows={each.name: (len(each.train), len(each.held_out), each.skipped) for each in examples},
    )
    try:
        figure = curves_figure(lines)
    except LengthwiseError:
        picture = "There is no picture, because matplotlib is missing: install lengthwise[plot]."
    else:
        write_atomically(folder / CURVES, figure_to_png(figure))
        picture = f"![Losses and learning rate by step]({CURVES})"
    write_atomically(folder / REPORT, report_to_markdown(report, picture).encode())
    write_atomically(folder / RECORD, json.dumps(asdict(report), indent=2).encode() + b"\n")
    return report


def report_to_markdown(report: TrainReport, picture: str) -> str:
    """The report as Markdown.

    Args:
        picture: a line that shows the curves, or says why there are none.
    """
    kept = f"the weights are those after step {report.best_step:,}, of the lowest held-out loss"
    if report.best_loss is None:
        kept = "nothing was held out, and the weights are the last ones"
    sections = [
        "# Report of a training run",
        f"{report.steps:,} steps of {report.tokens:,} tokens in {report.seconds:,.1f} s"
        f" ({report.tokens_per_second:,.0f} tokens/s), until {_REASONS.get(report.stopped, report.stopped)};"
        f" {kept}.",
        markdown_table(
            ("source", "rows to learn from", "held out", "left out", "last held-out loss", "accuracy"),
            [
                (name, *_counts(counts), _figure(report.losses.get(name)), _figure(report.accuracies.get(name)))
                for name, counts in report.rows.items()
            ],
            RIGHT,
        ),
        picture,
        markdown_table(
            ("part", "value"),
            [
                ("processor", f"{cpu_model()}, {cpu_count()} cores"),
                ("system", f"{platform.system()} {platform.machine()}"),
                *package_versions().items(),
            ],
        ),
    ]
    return "\n\n".join(sections) + "\n"


def curves_figure(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Losses by step: of training as a line, of held-out rows as points on a line; below, the learning rate.

    Raises:
        LengthwiseError: matplotlib is not installed.
    """
    names = sorted({name for line in lines for name in (*line.get("losses", {}), *line.get("validation", {}))})
    figure = new_figure(11, 3.2 * max(1, len(names)) + 1.8)
    panels = figure.subplots(len(names) + 1, 1, sharex=True, squeeze=False, height_ratios=[3] * len(names) + [1.4])[
        :, 0
    ]
    for number, (axes, name) in enumerate(zip(panels[:-1], names, strict=True)):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(*_curve(lines, "losses", name), color=colour, linewidth=1, alpha=0.6, label="in training")
        axes.plot(*_curve(lines, "validation", name), color=INK, marker="o", markersize=3, label="held out")
        axes.set_title(f"Loss of source {name}", loc="left", fontsize=13, color=INK)
        axes.legend(frameon=False)
        _style(axes)
    rates = [line for line in lines if "learning_rate" in line]
    panels[-1].plot([line["step"] for line in rates], [line["learning_rate"] for line in rates], color=INK)
    panels[-1].set_title("Learning rate", loc="left", fontsize=13, color=INK)
    panels[-1].set_xlabel("step")
    _style(panels[-1])
    return figure


def _curve(lines: Sequence[Mapping[str, Any]], kind: str, name: str) -> tuple[list[int], list[float]]:
    found = [line for line in lines if name in line.get(kind, {})]
    return [line["step"] for line in found], [line[kind][name] for line in found]


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.3)


def _counts(counts: Sequence[int]) -> list[str]:
    return [f"{count:,}" for count in counts]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
