"""The training loop: steps, schedule, validation, checkpoints and the log.

- A step has a batch of every source whose turn it is (`sampling.due_sources`). Its loss is the sum of theirs, each
  times the source's weight, and the gradient's norm is clipped.
- All state is in `snapshot`: encoder, heads, optimizer, moving average, best weights, positions of the samplers, the
  random generator. A run that goes on from one makes the same steps as one that was never interrupted, to the byte
  where PyTorch runs on one thread.
- The learning rate depends on the step alone. `max_minutes` stops a run and changes nothing before that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import RunError
from lengthwise.train_config import TrainSettings
from lengthwise.training.batches import BatchRunner, training_precision
from lengthwise.training.checkpoints import Checkpoints, Snapshot
from lengthwise.training.examples import Examples
from lengthwise.training.gradients import StepGradients, prepare_thread
from lengthwise.training.journal import Journal
from lengthwise.training.learners import Learner, make_learner
from lengthwise.training.optimizer import WeightOptimizer
from lengthwise.training.sampling import due_sources

_RUN_STATE = ("step", "tokens", "seconds", "best_loss", "best_step", "without_gain", "stopped")


class Trainer:
    """Trains an encoder on the examples of one or more sources.

    Attributes:
        encoder: what is trained, on its device.
        step: how many steps were made.
        total_steps: how many there will be at most.
        tokens: how many tokens were trained on.
        seconds: the time that was spent, over all processes of the run.
        best_loss: the lowest validation loss so far; None before the first validation.
        best_step: after which step it was found.
        stopped: why training ended: "steps", "time" or "patience"; "" until then.
        losses: the losses of the last validation by source.
        accuracies: the held-out accuracies of the last validation, by the sources that have classes.
    """

    def __init__(self, encoder: PackedEncoder, examples: Sequence[Examples], settings: TrainSettings) -> None:
        """Plan the batches and make the optimizer.

        Raises:
            ConfigError: a source has too few rows.
        """
        self.encoder, self._settings = encoder, settings
        device = encoder.embedding.weight.device.type
        self._runner = BatchRunner(encoder, settings.max_tokens, training_precision(settings, device))
        self._learners: list[Learner] = [
            make_learner(source, number, encoder, settings, self._runner) for number, source in enumerate(examples)
        ]
        self._shares = [learner.share for learner in self._learners]
        rounds = self._learners[0].sampler.batches * max(self._shares) / self._shares[0]
        self.total_steps = count_steps(settings, rounds)
        self._parameters = dict(self._named_parameters())
        self._optimizer = WeightOptimizer(self._parameters, settings)
        self._average = {name: weight.detach().clone() for name, weight in self._averaged()}
        self._best: dict[str, Tensor] = {}
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.best_loss: float | None = None
        self.best_step, self.without_gain, self.stopped = 0, 0, ""
        self.losses: dict[str, float] = {}
        self.accuracies: dict[str, float] = {}
        self._sums: dict[str, list[float]] = {}

    def run(self, checkpoints: Checkpoints, journal: Journal, *, show_progress: bool) -> None:
        """Train to the end, from the current step; then the encoder has the best weights that were found.

        Raises:
            RunError: a loss is no number.
            StoreError: a checkpoint or the log cannot be written.
        """
        before, began, resumed = self.seconds, time.perf_counter(), self.tokens
        self.encoder.train()
        threads = 1 if self._runner.device.type == "cuda" else torch.get_num_threads()
        with (
            ThreadPoolExecutor(threads, "train", prepare_thread) as pool,
            tqdm(
                total=self.total_steps, initial=self.step, desc="train", unit=" steps", disable=not show_progress
            ) as bar,
        ):
            gradients = StepGradients(self._runner, self._parameters.values(), pool, threads)
            while not self.stopped:
                self._make_step(gradients)
                self.seconds = before + time.perf_counter() - began
                self._end_step(journal)
                rate = (self.tokens - resumed) / (self.seconds - before)
                bar.set_postfix_str(self._describe(rate), refresh=False)
                bar.update(1)
                if self.step % self._settings.checkpoint_every == 0 or self.stopped:
                    checkpoints.save(self.snapshot())
        self._runner.close()
        self._use_best()

    def snapshot(self) -> Snapshot:
        """The state after the last step."""
        record = {name: getattr(self, name) for name in _RUN_STATE}
        record["losses"], record["accuracies"] = self.losses, self.accuracies
        record["samplers"] = [learner.sampler.state_dict() for learner in self._learners]
        tensors = {f"weights.{name}": weight.detach() for name, weight in self._parameters.items()}
        tensors.update({f"optimizer.{name}": value for name, value in self._optimizer.state_dict().items()})
        tensors.update({f"average.{name}": value for name, value in self._average.items()})
        tensors.update({f"best.{name}": value for name, value in self._best.items()})
        tensors["random"] = torch.get_rng_state()
        return Snapshot(self.step, record, tensors)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a state of the same run."""
        for name in _RUN_STATE:
            setattr(self, name, snapshot.record[name])
        self.losses, self.accuracies = dict(snapshot.record["losses"]), dict(snapshot.record["accuracies"])
        for learner, state in zip(self._learners, snapshot.record["samplers"], strict=True):
            learner.sampler.load_state_dict(state)
        tensors = snapshot.tensors
        with torch.no_grad():
            for name, weight in self._parameters.items():
                weight.copy_(tensors[f"weights.{name}"])
        self._optimizer.load_state_dict(_below(tensors, "optimizer"))
        device = self._runner.device
        self._average = {name: value.to(device) for name, value in _below(tensors, "average").items()}
        self._best = {name: value.to(device) for name, value in _below(tensors, "best").items()}
        torch.set_rng_state(tensors["random"])

    def _make_step(self, gradients: StepGradients) -> None:
        """One step of the optimizer, over one or more batches."""
        tokens = self._runner.tokens
        self._add_gradients(gradients)
        norm = self._optimizer.step(learning_rate_factor(self.step, self.total_steps, self._settings))
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm}")
        self.step += 1
        self.tokens += self._runner.tokens - tokens
        self._update_average()

    def _add_gradients(self, gradients: StepGradients) -> None:
        """Of the next batch of every source whose turn it is, in the rounds of a step."""
        accumulate = self._settings.accumulate
        rounds = range(self.step * accumulate, (self.step + 1) * accumulate)
        due = [self._learners[number] for round_number in rounds for number in due_sources(self._shares, round_number)]
        for learner, loss in zip(due, gradients.add(due, 1 / accumulate), strict=True):
            if not math.isfinite(loss):
                raise self._diverged(f"the loss of train.sources.{learner.name} is {loss}")
            self._sums.setdefault(learner.name, []).append(loss)

    def _end_step(self, journal: Journal) -> None:
        """Validate and write to the log where it is time for it; decide whether training ends."""
        settings = self._settings
        if self.step >= self.total_steps:
            self.stopped = "steps"
        elif settings.max_minutes is not None and self.seconds >= 60 * settings.max_minutes:
            self.stopped = "time"
        if self.step % settings.validation.every == 0 or self.stopped:
            self._validate(journal)
        every = self.step % settings.log_every == 0 or self.step % settings.checkpoint_every == 0
        if self._sums and (every or self.stopped):
            losses = {name: sum(values) / len(values) for name, values in self._sums.items()}
            rate = self._optimizer.learning_rate
            journal.write({"step": self.step, **self._times(), "learning_rate": rate, "losses": losses})
            self._sums = {}

    def _validate(self, journal: Journal) -> None:
        """Measure the loss on the held-out rows, and keep the weights if it is the lowest so far."""
        self.encoder.eval()
        counted = self._runner.tokens
        with torch.no_grad(), self._averaged_weights():
            found = {learner.name: learner.validation_loss(self._runner) for learner in self._learners}
            self._runner.tokens = counted
            self.losses = {name: loss for name, loss in found.items() if loss is not None}
            accuracies = {learner.name: learner.accuracy for learner in self._learners}
            self.accuracies = {name: share for name, share in accuracies.items() if share is not None}
            if self.losses:
                self._compare(_weighted_mean(self._learners, self.losses))
        self.encoder.train()
        if self.losses:
            shares = {"accuracy": self.accuracies} if self.accuracies else {}
            journal.write({"step": self.step, **self._times(), "validation": self.losses, **shares})

    def _compare(self, loss: float) -> None:
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step, self.without_gain = loss, self.step, 0
            self._best = {name: weight.detach().clone() for name, weight in self.encoder.named_parameters()}
            return
        self.without_gain += 1
        patience = self._settings.validation.patience
        if patience is not None and self.without_gain >= patience and not self.stopped:
            self.stopped = "patience"

    def _update_average(self) -> None:
        """Move the average; at the start it follows the weights faster, so that the initial ones are soon forgotten."""
        if not self._average:
            return
        decay = min(self._settings.average, self.step / (self.step + 10))
        with torch.no_grad():
            for name, weight in self._averaged():
                self._average[name].lerp_(weight, 1 - decay)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The encoder has the averaged weights inside the block."""
        own = {name: weight.detach().clone() for name, weight in self._averaged()}
        with torch.no_grad():
            for name, weight in self._averaged():
                weight.copy_(self._average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._averaged():
                    weight.copy_(own[name])

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        if self._settings.average:
            yield from self._parameters.items()

    def _use_best(self) -> None:
        """Give the encoder the weights of the best validation; without one, the last ones, or their average."""
        found = self._best or {name: value for name, value in self._average.items() if not name.startswith("head.")}
        with torch.no_grad():
            for name, weight in self.encoder.named_parameters():
                if name in found:
                    weight.copy_(found[name])
        self.encoder.eval()

    def _named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights that are trained; those of heads are named `head.SOURCE.NAME`."""
        for name, weight in self.encoder.named_parameters():
            if name == "embedding.weight" and self._settings.embedding_learning_rate == 0:
                weight.requires_grad_(False)
            else:
                yield name, weight
        for number, learner in enumerate(self._learners):
            if learner.head is not None:
                for name, weight in learner.head.named_parameters():
                    yield f"head.{number}.{name}", weight

    def _times(self) -> dict[str, Any]:
        first = self._learners[0].sampler
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return {"epoch": first.epoch, "seconds": round(self.seconds, 3), "tokens_per_second": round(rate, 1)}

    def _describe(self, rate: float) -> str:
        latest = {name: values[-1] for name, values in self._sums.items()}
        shown = [f"{name} {value:.3f}" for name, value in latest.items()]
        shown += [f"held out {self.best_loss:.4f}"] if self.best_loss is not None else []
        return ", ".join([*shown, f"{rate:,.0f} tokens/s"])

    def _diverged(self, problem: str) -> RunError:
        return RunError(
            f"{problem} at step {self.step + 1}: training diverged; lower train.learning_rate"
            f" ({self._settings.learning_rate:g}) or train.clip_norm ({self._settings.clip_norm}), and start over with"
            " --fresh"
        )


def learning_rate_factor(step: int, total: int, settings: TrainSettings) -> float:
    """The learning rate of a step (from 0) as a share of its highest."""
    warmup = min(settings.warmup, total // 10)
    if step < warmup:
        return (step + 1) / warmup
    rest = (step - warmup) / max(1, total - warmup)
    if settings.decay == "none":
        return 1.0
    fallen = 1 - rest if settings.decay == "linear" else (1 + math.cos(math.pi * rest)) / 2
    return max(fallen, settings.final_rate)


def count_steps(settings: TrainSettings, rounds: float) -> int:
    """How many steps a run has at most.

    Args:
        rounds: of batches in one pass over the first source.
    """
    epochs = 1.0 if settings.epochs is None and settings.max_steps is None else settings.epochs
    limits = [settings.max_steps] if settings.max_steps else []
    if epochs is not None:
        limits.append(max(1, math.ceil(epochs * rounds / settings.accumulate - 1e-9)))
    return min(limits)


def _weighted_mean(learners: Sequence[Learner], losses: dict[str, float]) -> float:
    """The mean of the sources' losses, by weight and share."""
    weights = {learner.name: learner.weight * learner.share for learner in learners if learner.name in losses}
    return sum(weights[name] * loss for name, loss in losses.items()) / sum(weights.values())


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
