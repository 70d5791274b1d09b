"""Does every runtime compute what PyTorch computes, and does a row's vector depend on the row alone?

Each runtime is judged on each graph that it can read: on a grid of batches, on every id of the vocabulary, on the
artifact's golden vectors and on real texts (`validation.compare` says how). In float32, 1e-6 on a CPU is some eight
units in the last place of a value near 1, which is what other orders of summation within a matrix product come to;
1e-5 on a GPU, whose tiles differ more. In less than float32 a vector may move (`graphs.variants` says how far), but
not with its batch.

A failure that is the runtime's own and was known before does not fail the artifact, but it is measured each time and
never assumed: a runtime that ignores lengths has to agree with the control, the native graph with its lengths cut
off; one that lacks an operator has to refuse the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tqdm import tqdm

from lengthwise.encoder.checkpoint import load_encoder
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.variants import NATIVE, VARIANTS, Variant
from lengthwise.export.runtimes import NotRunnable, Runtime
from lengthwise.export.runtimes.base import Tolerances
from lengthwise.export.runtimes.control import LengthsIgnored
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.validation.cases import (
    GOLDEN,
    GOLDEN_CASE,
    TEXTS,
    Case,
    Oracle,
    grid_cases,
    one_row_at_a_time,
    text_cases,
    vocabulary_cases,
)
from lengthwise.export.validation.compare import CaseResult, Comparator, Comparison, scaled_difference
from lengthwise.export.validation.speed import Speeds, measure_speed
from lengthwise.tokens.ragged import RaggedTokens

Status = Literal["passed", "failed", "refused", "not run"]
Check = tuple[Case, Oracle]


@dataclass(frozen=True)
class Verdict:
    """What validation says of one runtime on one graph.

    Attributes:
        status: refused where the runtime does not take the file and says so, not run where it is not here.
        reason: why it failed, refused or was not run; empty where it passed.
        known: whether a failure is the runtime's or the graph's own, known before and found again.
        comparison: what was measured; empty where nothing was.
        environment: versions, and what proves where it ran.
    """

    runtime: str
    variant: str
    file: str
    status: Status
    reason: str
    known: bool
    tolerances: Tolerances
    comparison: Comparison
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Validation:
    """All verdicts on an artifact.

    Attributes:
        verdicts: one a runtime and graph, in the order in which they were asked for.
        control: of a graph that ignores lengths, on the same comparisons.
        lengths_matter: whether such a graph computes something else than the encoder: it does with a reverse
            direction, which would start in the padding, and where the last state is taken.
        speeds: what a batch took, by runtime and graph.
    """

    verdicts: tuple[Verdict, ...]
    control: Verdict
    lengths_matter: bool
    speeds: Speeds = field(default_factory=dict)

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The verdicts that speak against the artifact: failures that were not known of the runtime or the graph."""
        return tuple(verdict for verdict in self.verdicts if verdict.status == "failed" and not verdict.known)

    @property
    def without_graph(self) -> tuple[str, ...]:
        """Runtimes that ran, and on which no graph in float32 passed."""
        ran = [verdict.runtime for verdict in self.verdicts if verdict.status != "not run"]
        return tuple(dict.fromkeys(runtime for runtime in ran if runtime not in self.recommended))

    @property
    def lengths_seen(self) -> bool:
        """Whether the control shows that the comparisons can tell when lengths are ignored, or need not."""
        difference = self.control.comparison.difference or 0.0
        caught = self.control.status == "failed" and difference > self.control.tolerances.difference
        return caught or not self.lengths_matter

    @property
    def passed(self) -> bool:
        """Whether something ran, each runtime that did has a graph to use and none failed, and lengths were seen."""
        return bool(self.recommended) and not self.failed and not self.without_graph and self.lengths_seen

    @property
    def recommended(self) -> dict[str, str]:
        """The graph to use on each runtime, the first in float32 that passed there."""
        found: dict[str, str] = {}
        for verdict in self.verdicts:
            if verdict.status == "passed" and VARIANTS[verdict.variant].exact:
                found.setdefault(verdict.runtime, verdict.variant)
        return found


def validate_artifact(
    artifact: Artifact,
    runtimes: Iterable[type[Runtime]],
    texts: RaggedTokens | None = None,
    *,
    speed: bool = False,
    show_progress: bool = False,
) -> Validation:
    """A verdict for each runtime on each graph of the artifact that it reads, and for the control.

    Args:
        texts: ids of real texts, compared besides the grid and the golden vectors.
        speed: also measure what a batch takes.
    """
    encoder = load_encoder(artifact.folder)
    vocab_size = encoder.config.vocab_size
    of_texts = text_cases(texts, vocab_size) if texts is not None else ()
    cases = [*grid_cases(vocab_size), *vocabulary_cases(vocab_size), *of_texts]
    golden = artifact.load_golden()
    checks = [(case, one_row_at_a_time(encoder, case)) for case in tqdm(cases, "oracle", disable=not show_progress)]
    checks.append((Case(GOLDEN_CASE, GOLDEN, golden.input_ids, golden.lengths), Oracle(golden.vectors, None)))
    pairs = [
        (kind, VARIANTS[name])
        for kind in runtimes
        for name, file in kind.files.items()
        if (artifact.folder / file).exists()
    ]
    verdicts = [
        judge(kind(), variant, artifact.folder, checks, vocab_size)
        for kind, variant in tqdm(pairs, "validate", disable=not show_progress)
    ]
    control = judge(LengthsIgnored(), VARIANTS[NATIVE], artifact.folder, checks, vocab_size, explain=False)
    lengths_matter = encoder.config.bidirectional or encoder.config.pooling == "last"
    speeds = {}
    if speed:
        ran = {(verdict.runtime, verdict.variant) for verdict in verdicts if verdict.environment}
        running = [(kind, variant) for kind, variant in pairs if (kind.name, variant.name) in ran]
        speeds = measure_speed(running, artifact.folder, vocab_size, show_progress=show_progress)
    return Validation(tuple(verdicts), control, lengths_matter, speeds)


def judge(
    runtime: Runtime,
    variant: Variant,
    folder: Path,
    checks: Sequence[Check],
    vocab_size: int,
    *,
    explain: bool = True,
) -> Verdict:
    """Run every comparison on one runtime with one graph.

    A runtime that raises on an input fails with that reason: a crash is an answer too. One that says it cannot run
    here at all is "not run".

    Args:
        explain: look whether a failure is that of a runtime that ignores lengths.
    """
    file = runtime.files[variant.name]
    tally = Comparator(runtime, vocab_size, () if variant.exact else (GOLDEN, TEXTS))
    tolerances = runtime.tolerances(variant)
    loaded, environment = False, dict[str, str]()
    status: Status
    try:
        runtime.load(folder / file)
        loaded = True
        for case, oracle in checks:
            tally.compare(case, oracle)
        environment = runtime.describe()
        independent = variant.independent and variant.name not in runtime.dependent
        status, reason, known = _verdict(tally.result(), tolerances, variant, independent)
        if explain and status == "failed" and not known and _ignores_lengths(runtime, variant, folder / file, checks):
            reason = f"ignores the lengths: it computes what the graph gives with its lengths cut off ({reason})"
            known = not runtime.reads_lengths
    except NotRunnable as error:
        status, reason, known, tally = "not run", str(error), False, Comparator(runtime, vocab_size)
    except Exception as error:  # each runtime raises its own types
        done = tally.result().cases
        where = "loading" if not loaded else done[-1].case if done else "no comparison"
        status, reason = "failed", f"{type(error).__name__} after {where}: {' '.join(str(error).split())[:300]}"
        known = not loaded and not runtime.contrib and _has_contrib(folder / file)
        if known:
            status, reason = "refused", f"the file needs an operator of onnxruntime's own ({reason})"
    finally:
        runtime.close()
    return Verdict(
        runtime=runtime.name,
        variant=variant.name,
        file=file,
        status=status,
        reason=reason,
        known=known,
        tolerances=tolerances,
        comparison=tally.result(),
        environment=environment,
    )


def _verdict(
    found: Comparison, tolerances: Tolerances, variant: Variant, independent: bool
) -> tuple[Status, str, bool]:
    """Status, reason, and whether a failure is the graph's own.

    `independent`: whether a vector is to depend on its text alone, on this runtime.
    """
    worst = _worst(found.cases, of_batch=False)
    if not worst.difference <= tolerances.difference:
        return "failed", f"{worst.case}: off by {worst.difference:.2g}", False
    if found.cosine is not None and not found.cosine >= tolerances.cosine:
        return "failed", f"a vector's cosine to PyTorch's is {found.cosine:.6f}", False
    worst = _worst(found.cases, of_batch=True)
    if not worst.difference <= tolerances.batch:
        reason = f"a vector depends on its batch: {worst.case}: off by {worst.difference:.2g}"
        return "failed", reason, not independent
    if not variant.independent:
        return "failed", "a vector depends on its batch, although these comparisons do not show it", True
    return "passed", "", False


def _worst(cases: Iterable[CaseResult], of_batch: bool) -> CaseResult:
    return max((case for case in cases if case.of_batch == of_batch), key=lambda case: case.difference)


def _has_contrib(path: Path) -> bool:
    """Whether a file is a graph with one of onnxruntime's own operators."""
    try:
        return any(node.domain == "com.microsoft" for node in onnx.load(path, load_external_data=False).graph.node)
    except (OSError, DecodeError):
        return False


def _ignores_lengths(runtime: Runtime, variant: Variant, path: Path, checks: Sequence[Check]) -> bool:
    """Whether a runtime read a right ONNX graph wrongly, in agreement with the control, where lengths matter.

    Right is what passes in onnxruntime. Agreement is to ten times the tolerance in float32; below, it is ten times
    better than the control's with onnxruntime.
    """
    if path.suffix != ".onnx":
        return False
    control, told = LengthsIgnored(), OnnxRuntimeCpu()
    tolerance = told.tolerances(variant).difference
    try:
        control.load(path)
        told.load(path)
    except Exception:  # a file that onnxruntime does not take is not a right one, whatever it raises
        return False
    from_control = control_off = 0.0
    for case, oracle in checks:
        found, cut, right = (one.run(case.input_ids, case.attention_mask)[0] for one in (runtime, control, told))
        if not _largest_difference(right, oracle.vectors) <= tolerance:
            return False
        from_control = max(from_control, _largest_difference(found, cut))
        control_off = max(control_off, _largest_difference(cut, right))
    close = 10 * runtime.tolerances(variant).difference if variant.exact else control_off / 10
    return from_control <= close < control_off


def _largest_difference(found: NDArray[np.floating], right: NDArray[np.floating]) -> float:
    return float(np.nan_to_num(scaled_difference(found, right), nan=np.inf).max(initial=0))
