"""An evaluation as Markdown, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lengthwise.errors import LengthwiseError
from lengthwise.evaluation.evaluate import Evaluation, ModelResult
from lengthwise.evaluation.intervals import CONFIDENCE, Difference, Measured
from lengthwise.evaluation.picture import draw
from lengthwise.util.files import write_atomically
from lengthwise.util.markdown import RIGHT, markdown_table

NONE = "–"
REPORT_FILES = ("evaluation.md", "evaluation.json", "evaluation.png")


def write_report(evaluation: Evaluation, folder: str | Path) -> list[Path]:
    """Write the tables, the figures as JSON, and the picture if speed was measured and matplotlib is installed.

    Returns:
        the files.

    Raises:
        StoreError: they cannot be written.
    """
    markdown, data, picture = (Path(folder) / name for name in REPORT_FILES)
    write_atomically(markdown, f"# Evaluation\n\n{to_markdown(evaluation)}\n".encode())
    write_atomically(data, f"{json.dumps(to_dict(evaluation), indent=2, ensure_ascii=False)}\n".encode())
    try:
        image = draw(evaluation)
    except LengthwiseError:  # matplotlib is not installed
        image = None
    if image is None:
        return [markdown, data]
    write_atomically(picture, image)
    return [markdown, data, picture]


def to_markdown(evaluation: Evaluation) -> str:
    """The models side by side, and their differences from the baseline if there are several."""
    heads = [f"{name} ({task.main})" for name, task in evaluation.tasks.items()]
    costs = ["texts/s", "MB", "start-up (s)"] if any(model.costs for model in evaluation.models) else []
    mean = ["mean"] if len(evaluation.averaged) > 1 else []
    rows = [_row(evaluation, model, with_mean=bool(mean), with_costs=bool(costs)) for model in evaluation.models]
    parts = [markdown_table(["model", "dim", *heads, *mean, *costs], rows, RIGHT), _notes(evaluation)]
    others = [model for model in evaluation.models if model.name != evaluation.baseline]
    if others:
        cells = [[model.name, *map(_difference, evaluation.differences(model).values())] for model in others]
        parts += [
            f"Differences from {evaluation.baseline} on the same rows; bold where the interval does not contain 0:",
            markdown_table(["model", *heads], cells, RIGHT),
        ]
    return "\n\n".join(parts)


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that was measured, as JSON can hold it."""
    return {
        "machine": dict(evaluation.machine),
        "confidence": CONFIDENCE,
        "baseline": evaluation.baseline,
        "tasks": {name: task.model_dump() for name, task in evaluation.tasks.items()},
        "models": [_model_record(evaluation, model) for model in evaluation.models],
    }


def _row(evaluation: Evaluation, model: ModelResult, *, with_mean: bool, with_costs: bool) -> list[str]:
    cells = [model.name, NONE if model.dim is None else str(model.dim)]
    cells += [_metric(model.main(name, task)) for name, task in evaluation.tasks.items()]
    if with_mean:
        cells.append(_metric(evaluation.quality(model)))
    if with_costs and model.costs:
        speed, size, startup = model.costs.texts_per_s, model.costs.num_bytes, model.costs.startup_s
        cells.append(NONE if speed is None else f"{speed:,.0f}")
        cells.append(NONE if size is None else f"{size / 1e6:.1f}")
        cells.append(NONE if startup is None else f"{startup:.1f}")
    return cells


def _notes(evaluation: Evaluation) -> str:
    machine = evaluation.machine
    notes = [
        f"In brackets: {CONFIDENCE:.0%} intervals by bootstrap. {machine['processor']}, {machine['cores']} cores;"
        f" {', '.join(f'{name} {version}' for name, version in machine['versions'].items())}."
    ]
    if len(evaluation.averaged) > 1:
        notes.append(f"mean: of {', '.join(evaluation.averaged)}.")
    sizes = {
        model.name: model.costs.batch_size for model in evaluation.models if model.costs and model.costs.batch_size
    }
    if sizes:
        notes.append(f"Fastest batch: {', '.join(f'{name} {size}' for name, size in sizes.items())}.")
    return " ".join(notes)


def _metric(measured: Measured | None) -> str:
    if measured is None:
        return NONE
    return f"{measured.value:.3f} ({measured.interval.low:.3f} to {measured.interval.high:.3f})"


def _difference(found: Difference | None) -> str:
    if found is None:
        return NONE
    text = f"{found.value:+.3f} ({found.interval.low:+.3f} to {found.interval.high:+.3f})"
    return f"**{text}**" if found.is_certain else text


def _model_record(evaluation: Evaluation, model: ModelResult) -> dict[str, Any]:
    differences = evaluation.differences(model)
    tasks: dict[str, Any] = {}
    for name, found in model.tasks.items():
        tasks[name] = None if found is None else _task_record(found, differences[name])
    quality = evaluation.quality(model)
    return {
        "name": model.name,
        "kind": model.kind,
        "dim": model.dim,
        "tasks": tasks,
        "mean": quality and _measured_record(quality),
        "costs": None if model.costs is None else vars(model.costs),
    }


def _task_record(found: Mapping[str, Measured], other: Difference | None) -> dict[str, Any]:
    return {
        "metrics": {name: _measured_record(one) for name, one in found.items()},
        "difference": None if other is None else {"value": other.value, "interval": list(other.interval)},
    }


def _measured_record(measured: Measured) -> dict[str, Any]:
    return {"value": measured.value, "interval": list(measured.interval), "rows": measured.rows}
