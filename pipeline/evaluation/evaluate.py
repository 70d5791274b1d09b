"""Evaluates models on tasks: every model on every task, what it costs, and how much it differs from a baseline.

Models are opened one after the other, and each is forgotten before the next: only its figures are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise.errors import ConfigError
from lengthwise.evaluation.costs import SPEED_TEXTS, Costs, measure_costs
from lengthwise.evaluation.intervals import RESAMPLES, Difference, Measured, difference, mean_of, measure
from lengthwise.evaluation.models import Model, ModelSpec, VectorModel, check_source, model_of, open_model
from lengthwise.evaluation.scoring import Statistics, score, task_texts
from lengthwise.evaluation.tasks import Task, load_tasks, parse_tasks
from lengthwise.util.system import cpu_count, cpu_model, package_versions

if TYPE_CHECKING:
    from lengthwise.api import Encoder

Tasks = str | Path | Mapping[str, Any]
Given = Callable[[list[str]], NDArray[np.floating]]  # a model as a function
PACKAGES = ("lengthwise", "torch", "onnxruntime", "sentence-transformers", "scikit-learn", "scipy", "ir-measures")


@dataclass(frozen=True)
class ModelResult:
    """What was measured of a model.

    Attributes:
        name: the model's.
        kind: what kind of model it is.
        dim: the width of its vectors; None of a model that only ranks.
        tasks: metrics by task, the main one first; None for a task that it cannot do.
        costs: None where they were not measured.
    """

    name: str
    kind: str
    dim: int | None
    tasks: Mapping[str, Mapping[str, Measured] | None]
    costs: Costs | None

    def main(self, task: str, kind: Task) -> Measured | None:
        """The main metric of a task, if the model can do it."""
        found = self.tasks[task]
        return None if found is None else found[kind.main]


@dataclass(frozen=True)
class Evaluation:
    """Models side by side.

    Attributes:
        tasks: the tasks, by name.
        models: what was measured, in the order in which the models were given.
        baseline: the name of the model that the others are compared with.
        machine: processor, cores and versions of packages.
    """

    tasks: Mapping[str, Task]
    models: Sequence[ModelResult]
    baseline: str
    machine: Mapping[str, Any]

    @property
    def averaged(self) -> list[str]:
        """The tasks whose mean is a model's quality: those that say how texts compare, and are not about a teacher."""
        return [name for name, task in self.tasks.items() if task.compares_texts]

    def quality(self, model: ModelResult) -> Measured | None:
        """The mean of a model's main metrics; None of a model that cannot do all tasks."""
        found = [model.main(name, self.tasks[name]) for name in self.averaged]
        known = [one for one in found if one is not None]
        return mean_of(known) if known and len(known) == len(found) else None

    def differences(self, model: ModelResult) -> dict[str, Difference | None]:
        """How much better than the baseline a model is, by task; None where one of them cannot do it."""
        baseline = next(one for one in self.models if one.name == self.baseline)
        pairs = {name: (model.main(name, task), baseline.main(name, task)) for name, task in self.tasks.items()}
        return {
            name: None if mine is None or theirs is None else difference(mine, theirs)
            for name, (mine, theirs) in pairs.items()
        }


def evaluate(
    models: Iterable[str | Path | VectorModel] | Mapping[str, Encoder | Given],
    data: Tasks,
    *,
    tasks: Sequence[str] | None = None,
    baseline: str | None = None,
    costs: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
    show_progress: bool = False,
) -> Evaluation:
    """Evaluate models on tasks.

    Args:
        models: as on the command line, see `evaluation.models`; or by name, encoders and functions from a list of texts
            to float[texts, dim].
        data: a YAML file of tasks, or what it would hold.
        tasks: the names of some; all by default.
        baseline: the name of the model that the others are compared with; the first by default.
        costs: also measure speed and start-up, for which nothing else should run.
        resamples: how often rows are drawn for an interval.
        seed: of the draws.
        show_progress: show a bar.

    Raises:
        ConfigError: a model, a task or the baseline is not known.
        DatasetError: a task's file cannot be read.
        LengthwiseError: a model cannot be loaded or fails, or a library is not installed.
    """
    chosen = _select(parse_tasks(data, "tasks") if isinstance(data, Mapping) else load_tasks(data), tasks, data)
    openers = _openers(models)
    if baseline is not None and baseline not in openers:
        raise ConfigError(f"the baseline {baseline!r} is none of the models: {', '.join(openers)}")
    open_teacher = cache(lambda text: open_model(ModelSpec.parse(text)))
    texts = _speed_texts(chosen, seed) if costs else []
    results = []
    with tqdm(total=len(openers) * len(chosen), disable=not show_progress, unit=" tasks") as bar:
        for name, opener in openers.items():
            bar.set_description(name)
            model = opener()
            found: dict[str, dict[str, Measured] | None] = {}
            for task_name, task in chosen.items():
                found[task_name] = _measure_task(score(task, model, open_teacher), resamples, seed)
                bar.update()
            dim = None if model.vectors is None else model.vectors.dim
            results.append(ModelResult(name, model.kind, dim, found, measure_costs(model, texts) if costs else None))
    machine = {"processor": cpu_model(), "cores": cpu_count(), "versions": package_versions(PACKAGES)}
    return Evaluation(chosen, results, baseline or results[0].name, machine)


def _measure_task(statistics: Statistics | None, resamples: int, seed: int) -> dict[str, Measured] | None:
    if statistics is None:
        return None
    return {name: measure(statistic, resamples, seed) for name, statistic in statistics.items()}


def _select(tasks: dict[str, Task], names: Sequence[str] | None, origin: object) -> dict[str, Task]:
    unknown = sorted(set(names or ()) - set(tasks))
    if unknown:
        where = "the data" if isinstance(origin, Mapping) else origin
        raise ConfigError(f"{where}: has no task {unknown[0]!r}; its tasks are {', '.join(tasks)}")
    return {name: task for name, task in tasks.items() if names is None or name in names}


def _openers(
    models: Iterable[str | Path | VectorModel] | Mapping[str, Encoder | Given],
) -> dict[str, Callable[[], Model]]:
    """What opens each model, by its name, in the order in which they were given."""
    openers: dict[str, Callable[[], Model]] = {}
    for name, opener in _named(models):
        if name in openers:
            raise ConfigError(f"two models are named {name!r}; name one of them, like other={name}")
        openers[name] = opener
    if not openers:
        raise ConfigError("there is no model to evaluate; give at least one")
    return openers


def _named(
    models: Iterable[str | Path | VectorModel] | Mapping[str, Encoder | Given],
) -> Iterable[tuple[str, Callable[[], Model]]]:
    if isinstance(models, Mapping):
        for name, given in models.items():
            yield name, partial(_as_model, name, given)
        return
    for model in models:
        if isinstance(model, VectorModel):
            yield model.name, partial(_itself, model)
        else:
            for spec in ModelSpec.parse(str(model)).expanded():
                check_source(spec)
                yield spec.name, partial(open_model, spec)


def _itself(model: VectorModel) -> VectorModel:
    return model


def _as_model(name: str, given: Encoder | Given) -> VectorModel:
    return VectorModel(name, given) if callable(given) else model_of(given, name)


def _speed_texts(tasks: Mapping[str, Task], seed: int) -> list[str]:
    """Texts of the tasks, as many of each as of the others, in random order."""
    generator, found = np.random.default_rng(seed), []
    for task in tasks.values():
        texts = list(dict.fromkeys(task_texts(task)))
        taken = generator.permutation(len(texts))[: -(-SPEED_TEXTS // len(tasks))]
        found += [texts[row] for row in taken]
    return [found[row] for row in generator.permutation(len(found))]
