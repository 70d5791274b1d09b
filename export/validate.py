"""Does every runtime compute what PyTorch computes, and does a row's vector depend on the row alone?

Each runtime is compared with the packed encoder run one row at a time (`export.cases`): on a grid of batches, on
every id of the vocabulary, on the artifact's golden vectors and on real texts; and with itself: a row alone against
the row in its batch, the batch in another order, the batch with more padding.

Tolerances are on |difference| / max(1, largest |value| of the row in the oracle): absolute for vectors that are
normalised or whose values stay within 1, as pooled LSTM states do under last, mean and max, and relative for sums
and projections that grow beyond. 1e-6 on a CPU in float32 is some eight units in the last place of a value near 1,
which is what other orders of summation within a matrix product come to; 1e-5 on a GPU, whose tiles differ more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.artifact import Artifact
from export.cases import Case, Oracle, grid_cases, one_row_at_a_time, text_cases, vocabulary_cases
from export.runtimes import NotRunnable, Outputs, Runtime
from export.runtimes.control import LengthsIgnored
from pipeline.checkpoint import load_encoder
from pipeline.tokens import TokenShard

Status = Literal["passed", "failed", "not run"]


@dataclass(frozen=True)
class CaseResult:
    """The largest difference that one comparison gave."""

    case: str
    difference: float


@dataclass(frozen=True)
class Verdict:
    """What validation says of one runtime.

    Attributes:
        max_difference: over all values of both outputs in all comparisons; None where nothing was run.
        p99_difference: the 99th percentile over the vectors' values in all comparisons.
        min_cosine: the smallest cosine of a vector to the oracle's.
        cases: each comparison's largest difference.
        reason: why it failed or was not run; empty where it passed.
        environment: versions, and what proves where it ran.
    """

    runtime: str
    file: str
    status: Status
    tolerance: float
    max_difference: float | None
    p99_difference: float | None
    min_cosine: float | None
    cases: tuple[CaseResult, ...]
    reason: str
    environment: dict[str, str]


@dataclass(frozen=True)
class Validation:
    """All verdicts on an artifact.

    Attributes:
        verdicts: one a runtime, in the order in which they were asked for.
        control: of a graph that ignores lengths, on the same comparisons.
        lengths_matter: whether such a graph computes something else than the encoder: it does with a reverse
            direction, which would start in the padding, and where the last state is taken.
    """

    verdicts: tuple[Verdict, ...]
    control: Verdict
    lengths_matter: bool

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The verdicts of runtimes that failed; one that was not run has not."""
        return tuple(verdict for verdict in self.verdicts if verdict.status == "failed")

    @property
    def passed(self) -> bool:
        """Whether no runtime failed, and the comparisons that they passed can tell when lengths are ignored."""
        return not self.failed and not (self.lengths_matter and self.control.status == "passed")


def validate_artifact(
    artifact: Artifact,
    runtimes: Iterable[type[Runtime]],
    texts: TokenShard | None = None,
    *,
    show_progress: bool = False,
) -> Validation:
    """A verdict for each runtime, and for the control.

    Args:
        texts: ids of real texts, compared besides the grid and the golden vectors.
    """
    encoder = load_encoder(artifact.folder)
    vocab_size = encoder.config.vocab_size
    of_texts = text_cases(texts, vocab_size) if texts is not None else ()
    cases = [*grid_cases(vocab_size), *vocabulary_cases(vocab_size), *of_texts]
    golden = artifact.load_golden()
    checks = [(case, one_row_at_a_time(encoder, case)) for case in tqdm(cases, "oracle", disable=not show_progress)]
    checks.append((Case("golden", golden.input_ids, golden.lengths), Oracle(golden.vectors, None)))
    kinds: list[type[Runtime]] = [*runtimes, LengthsIgnored]
    *verdicts, control = (
        judge(kind(), artifact.folder, checks, vocab_size)
        for kind in tqdm(kinds, "validate", unit=" runtimes", disable=not show_progress)
    )
    lengths_matter = encoder.config.bidirectional or encoder.config.pooling == "last"
    return Validation(tuple(verdicts), control, lengths_matter)


def judge(runtime: Runtime, folder: Path, checks: Sequence[tuple[Case, Oracle]], vocab_size: int) -> Verdict:
    """Run every comparison on one runtime.

    A runtime that raises on an input fails with that reason: a crash is an answer too. One that says it cannot run
    here at all is "not run".
    """
    tally = _Tally()
    environment: dict[str, str] = {}
    reason = ""
    status: Status = "passed"
    try:
        runtime.load(folder)
        for case, oracle in checks:
            outputs = _run(runtime, case)
            tally.add_oracle(case, outputs, oracle)
            for name, other, order in _invariances(case, vocab_size):
                tally.add_invariance(f"{case.name}: {name}", runtime, other, outputs, order)
        environment = runtime.describe()
    except NotRunnable as error:
        status, reason, tally = "not run", str(error), _Tally()
    except Exception as error:  # each runtime raises its own types
        where = tally.results[-1].case if tally.results else "loading"
        status, reason = "failed", f"{type(error).__name__} after {where}: {' '.join(str(error).split())[:300]}"
    if status == "passed":
        worst = max(tally.results, key=lambda result: _size(result.difference))
        if not worst.difference <= runtime.tolerance:
            status, reason = "failed", f"{worst.case}: off by {worst.difference:.2g}"
    return Verdict(
        runtime=runtime.name,
        file=runtime.file,
        status=status,
        tolerance=runtime.tolerance,
        max_difference=tally.largest(),
        p99_difference=tally.percentile(99),
        min_cosine=tally.min_cosine,
        cases=tuple(tally.results),
        reason=reason,
        environment=environment,
    )


def _run(runtime: Runtime, case: Case) -> Outputs:
    outputs = runtime.run(case.input_ids, case.attention_mask)
    if any(output.dtype != np.float32 for output in outputs):
        raise TypeError(f"the outputs are {' and '.join(str(output.dtype) for output in outputs)}, not float32")
    return outputs


def _invariances(case: Case, vocab_size: int) -> Iterable[tuple[str, Case, NDArray[np.int64]]]:
    """Other batches in which rows of the case stand, and which rows those are."""
    rng = np.random.default_rng(3)
    batch, sequence = case.input_ids.shape
    everything = np.arange(batch)
    yield "more padding", case.padded_to(sequence + 13, vocab_size, rng), everything
    if batch > 1:
        shuffled = rng.permutation(batch)
        yield "another order", case.rows(shuffled), shuffled
        for row in np.unique([0, int(case.lengths.argmin()), int(case.lengths.argmax()), batch - 1]):
            alone = case.rows(np.array([row]))
            yield f"row {row} alone", alone.padded_to(max(1, int(case.lengths[row])), vocab_size, rng), np.array([row])


class _Tally:
    """Differences as they come in."""

    def __init__(self) -> None:
        self.results: list[CaseResult] = []
        self.min_cosine: float | None = None
        self._differences: list[NDArray[np.float64]] = []

    def add_oracle(self, case: Case, outputs: Outputs, oracle: Oracle) -> None:
        """Compare a batch with the oracle."""
        vectors, states = outputs
        of_states = [] if oracle.states is None else [scaled_difference(states, oracle.states)]
        self._add(case.name, scaled_difference(vectors, oracle.vectors), *of_states)
        cosine = _smallest_cosine(vectors, oracle.vectors)
        if cosine is not None:
            previous = cosine if self.min_cosine is None else self.min_cosine
            self.min_cosine = float(np.minimum(previous, cosine))  # one that is not a number stays

    def add_invariance(
        self, name: str, runtime: Runtime, other: Case, outputs: Outputs, rows: NDArray[np.int64]
    ) -> None:
        """Compare rows in another batch with the same rows of the first one."""
        vectors, states = _run(runtime, other)
        first, first_states = outputs[0][rows], outputs[1][rows]
        columns = min(states.shape[1], first_states.shape[1])
        self._add(
            name,
            scaled_difference(vectors, first),
            scaled_difference(states[:, :columns], first_states[:, :columns]),
            scaled_difference(states[:, columns:], np.zeros_like(states[:, columns:])),
        )

    def largest(self) -> float | None:
        """The largest difference of all; infinite where a value was not a number."""
        return max((_size(result.difference) for result in self.results), default=None)

    def percentile(self, percent: float) -> float | None:
        """A percentile over the vectors' values of all comparisons."""
        if not self._differences:
            return None
        return float(
            np.percentile(np.nan_to_num(np.concatenate(self._differences), nan=np.inf), percent, method="higher")
        )

    def _add(self, name: str, of_vectors: NDArray[np.float64], *of_states: NDArray[np.float64]) -> None:
        self._differences.append(of_vectors.ravel())
        largest = max(_size(differences.max(initial=0)) for differences in (of_vectors, *of_states))
        self.results.append(CaseResult(name, largest))


def scaled_difference(found: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.float64]:
    """|found - right| / max(1, largest |right| of the row); infinite everywhere where the shapes differ."""
    if found.shape != right.shape:
        return np.full(1, np.inf)
    right = right.astype(np.float64)
    scale = np.abs(right).max(axis=-1, keepdims=True, initial=1.0)
    return np.abs(found - right) / scale


def _size(difference: float) -> float:
    return float("inf") if np.isnan(difference) else float(difference)


def _smallest_cosine(found: NDArray[np.floating], right: NDArray[np.floating]) -> float | None:
    if found.shape != right.shape:
        return None
    found, right = found.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(right, axis=1)
    real = np.linalg.norm(right, axis=1) > 0
    if not real.any():
        return None
    return float(((found * right).sum(axis=1)[real] / np.maximum(norms[real], 1e-30)).min())
