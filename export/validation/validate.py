"""Checks that every runtime computes what PyTorch computes, and that a row's vector depends on the row alone.

Each runtime is judged on each graph that it can read: on a grid of batches, every id of the vocabulary, the golden
vectors and real texts (see `validation.compare`).

- In float32, 1e-6 on a CPU is about eight units in the last place of a value near 1, the effect of another order of
  summation within a matrix product; on a GPU, whose tiles differ more, 1e-5.
- A sum over time adds up the errors of its states, and gets their accumulated size in place of 1 (`artifact.oracle`).
- An encoder that amplifies rounding errors may differ by what rounding does to it (`artifact.rounding`).
- Below float32 a vector may differ by what `graphs.variants` allows, but not with its batch. A graph whose precision is
  too coarse for the encoder (`validation.coarse`) does not fail the artifact; nor is it recommended.
- A known limitation of a runtime does not fail the artifact, but it is measured each time and never assumed: a runtime
  that ignores lengths has to agree with the control, the native graph with its lengths disconnected, or refuse the
  file; one that lacks an operator has to refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from tqdm import tqdm

from lengthwise.config import CONFIG_FILE, WEIGHTS_FILE
from lengthwise.encoder.checkpoint import load_encoder
from lengthwise.encoder.model import PackedEncoder
from lengthwise.export.artifact.difference import largest, needed_tolerance, scaled_difference
from lengthwise.export.artifact.folder import GOLDEN_FILE, Artifact
from lengthwise.export.artifact.oracle import Oracle, OracleEncoder
from lengthwise.export.artifact.rounding import Rounding
from lengthwise.export.graphs.variants import DEVICE_VARIANTS, EVERY_VARIANT, NATIVE, VARIANTS, Variant
from lengthwise.export.runtimes import NotRunnable, Runtime
from lengthwise.export.runtimes.base import Tolerances
from lengthwise.export.runtimes.control import LengthsIgnored
from lengthwise.export.runtimes.onnxruntime import OnnxRuntimeCpu
from lengthwise.export.runtimes.pytorch import EncoderRuntime
from lengthwise.export.runtimes.tolerances import CPU_TOLERANCE
from lengthwise.export.validation.cases import (
    GOLDEN,
    GOLDEN_CASE,
    TEXTS,
    Case,
    grid_cases,
    padding_cases,
    speed_cases,
    text_cases,
    vocabulary_cases,
)
from lengthwise.export.validation.coarse import is_too_coarse
from lengthwise.export.validation.compare import CaseResult, Comparator, Comparison
from lengthwise.export.validation.speed import RuntimeFactory, measure_speed
from lengthwise.export.validation.verdict import LENGTHS_SHOWN, Status, SumScale, Validation, Verdict
from lengthwise.tokens.ragged import RaggedTokens

Check = tuple[Case, Oracle]


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
        artifact: the artifact; nothing is written to it.
        runtimes: the runtimes to judge.
        texts: ids of real texts, compared in addition to the grid and the golden vectors.
        speed: whether to measure milliseconds per batch too.
        show_progress: whether to show progress bars.
    """
    encoder = load_encoder(artifact.folder)
    checks, rounding = allow_rounding(_artifact_checks(artifact, encoder, texts, show_progress))
    kinds = list(runtimes)
    pairs = [
        (_factory(kind, encoder), EVERY_VARIANT[name])
        for kind in kinds
        for name, file in kind.files.items()
        if file in artifact.manifest["files"]
    ]
    verdicts = [
        judge(make_runtime(), variant, artifact.folder, checks, encoder=encoder)
        for make_runtime, variant in tqdm(pairs, "validate", disable=not show_progress)
    ]
    control = judge(LengthsIgnored(), VARIANTS[NATIVE], artifact.folder, checks, explain=False)
    speeds = {}
    if speed:
        ran = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.environment]
        cases = list(speed_cases(encoder.config.vocab_size))
        speeds = measure_speed(ran, artifact.folder, cases, show_progress=show_progress)
    verdicts += _without_file(artifact, kinds)
    files = _judged_files(artifact, verdicts)
    matter, scales = encoder.config.lengths_matter, _sum_scales(checks)
    return Validation(tuple(verdicts), control, matter, speeds, files, scales, rounding)


def make_checks(encoder: PackedEncoder, cases: Iterable[Case]) -> list[Check]:
    """Cases with their expected outputs, and what rounding may do to those."""
    reference = OracleEncoder(encoder)
    return allow_rounding((case, reference.compute(case.input_ids, case.lengths)) for case in cases)[0]


def allow_rounding(checks: Iterable[Check]) -> tuple[list[Check], Rounding]:
    """Checks with what rounding may do to their outputs, by what it did in texts of up to the same length."""
    found = list(checks)
    rounding = Rounding.collect(
        (case.lengths, oracle.rounding) for case, oracle in found if oracle.rounding is not None
    )
    allowed = [(case, replace(oracle, allowed=rounding.allowed(case.lengths))) for case, oracle in found]
    return allowed, rounding


def _without_file(artifact: Artifact, kinds: Iterable[type[Runtime]]) -> list[Verdict]:
    """ "Not run" for each runtime that only reads graphs for devices, none of which the artifact has."""
    return [
        Verdict(
            runtime=kind.name,
            variant=name,
            file=file,
            status="not run",
            reason=f"the artifact has no {file}; export it with {name} in export.variants",
            known=False,
            tolerances=kind().tolerances(EVERY_VARIANT[name]),
            comparison=Comparison(),
            environment={},
        )
        for kind in kinds
        if kind.files.keys() <= DEVICE_VARIANTS.keys()
        and not set(kind.files.values()) & artifact.manifest["files"].keys()
        for name, file in kind.files.items()
    ]


def _judged_files(artifact: Artifact, verdicts: Iterable[Verdict]) -> dict[str, str]:
    """sha256 (hex), by name, of the files that verdicts are about: graphs, and what they were compared with."""
    graphs = {verdict.file for verdict in verdicts}
    names = {CONFIG_FILE, WEIGHTS_FILE, GOLDEN_FILE, *graphs, *(f"{file}.data" for file in graphs)}
    return {name: file["sha256"] for name, file in artifact.manifest["files"].items() if name in names}


def _sum_scales(checks: Iterable[Check]) -> tuple[SumScale, ...]:
    """Of an encoder that sums states over time: what differences are divided by, for texts of several lengths."""
    found: dict[int, SumScale] = {}
    for case, oracle in checks:
        if oracle.allowance is None:
            continue
        accumulated_errors = oracle.allowance.scale + oracle.allowance.fixed / CPU_TOLERANCE
        usual = np.abs(oracle.vectors.astype(np.float64)).max(axis=1, initial=1.0)
        for length, accumulated, size in zip(case.lengths.tolist(), accumulated_errors, usual.tolist(), strict=True):
            tokens = next((most for most in LENGTHS_SHOWN if length <= most), length)
            largest = max(float(accumulated.max()), size)
            before = found.get(tokens, SumScale(tokens, 1.0, 1.0))
            found[tokens] = SumScale(tokens, max(before.divisor, largest), max(before.factor, largest / size))
    return tuple(found[tokens] for tokens in sorted(found))


def _factory(kind: type[Runtime], encoder: PackedEncoder) -> RuntimeFactory:
    return partial(kind, encoder) if issubclass(kind, EncoderRuntime) else kind


def _artifact_checks(
    artifact: Artifact, encoder: PackedEncoder, texts: RaggedTokens | None, show_progress: bool
) -> Iterable[Check]:
    """Every case and its expected outputs; those of the golden vectors last."""
    vocab_size = encoder.config.vocab_size
    from_texts = text_cases(texts, vocab_size) if texts is not None else ()
    padding = encoder.config.padding
    at_the_edge = () if padding is None else padding_cases(vocab_size, padding)
    cases = [*grid_cases(vocab_size), *at_the_edge, *vocabulary_cases(vocab_size), *from_texts]
    reference = OracleEncoder(encoder)
    for case in tqdm(cases, "oracle", disable=not show_progress):
        yield case, reference.compute(case.input_ids, case.lengths)
    golden = artifact.load_golden()
    case = Case(GOLDEN_CASE, GOLDEN, golden.input_ids, golden.lengths, vocab_size)
    found = reference.compute(golden.input_ids, golden.lengths)
    labels = found.labels
    if labels is not None and golden.logits is not None:
        labels = replace(labels, logits=golden.logits)
    yield case, replace(found, vectors=golden.vectors, states=None, labels=labels)


def judge(
    runtime: Runtime,
    variant: Variant,
    folder: Path,
    checks: Sequence[Check],
    *,
    explain: bool = True,
    encoder: PackedEncoder | None = None,
) -> Verdict:
    """Run every comparison on one runtime with one graph.

    A runtime that raises on an input has failed with that error as the reason; one that cannot run here is "not run".

    Args:
        runtime: a runtime that is not loaded; it is closed afterwards.
        variant: the graph.
        folder: the artifact's.
        checks: the cases and their expected outputs.
        explain: whether to test if a failure is explained by ignored lengths.
        encoder: the artifact's, to test if a failure is explained by the graph's precision.
    """
    path, tolerances = folder / runtime.files[variant.name], runtime.tolerances(variant)
    comparator = Comparator(runtime, () if variant.exact else (GOLDEN, TEXTS), in_float32=variant.exact)
    loaded, environment, coarse = False, dict[str, str](), False
    status: Status
    try:
        runtime.load(path)
        loaded = True
        for case, oracle in checks:
            comparator.compare(case, oracle)
        environment = runtime.describe()
        found = comparator.result()
        off, dependent = _distance(found, tolerances), _batch_dependence(found, tolerances, variant)
        reason, status = off or dependent, "failed" if off or dependent else "passed"
        known = not off and bool(dependent) and (not variant.independent or variant.name in runtime.dependent)
        if explain and status == "failed" and not known and _ignores_lengths(runtime, variant, path, checks):
            reason = f"ignores the lengths: it computes what the graph gives with its lengths disconnected ({reason})"
            known = not runtime.reads_lengths
        elif off and (not dependent or not variant.independent) and encoder is not None:
            coarse = known = is_too_coarse(found, tolerances, variant, encoder, checks)
            reason = f"too coarse for this encoder: {reason}" if coarse else reason
    except NotRunnable as error:
        status, reason, known, comparator = "not run", str(error), False, Comparator(runtime)
    except Exception as error:  # each runtime raises its own types
        done = comparator.result().cases
        where = "loading" if not loaded else done[-1].case if done else "no comparison"
        reason = f"{type(error).__name__} after {where}: {' '.join(str(error).split())[:300]}"
        status, known = "failed", False
        if not loaded and (lacks := _what_it_lacks(runtime, path)):
            status, known, reason = "refused", True, f"the file needs {lacks} ({reason})"
    finally:
        runtime.close()
    return Verdict(
        runtime=runtime.name,
        variant=variant.name,
        file=runtime.files[variant.name],
        status=status,
        reason=reason,
        known=known,
        tolerances=tolerances,
        comparison=comparator.result(),
        environment=environment,
        coarse=coarse,
    )


def _distance(found: Comparison, tolerances: Tolerances) -> str:
    """How outputs are too far from PyTorch's; empty if they are not."""
    worst = _worst(found.cases, of_batch=False)
    if not worst.needed <= tolerances.difference:
        return f"{worst.case}: off by {worst.difference:.2g}"
    if found.cosine is not None and not found.cosine >= tolerances.cosine:
        return f"a vector's cosine to PyTorch's is {found.cosine:.6f}"
    if not found.changed_share <= tolerances.labels:
        return f"{found.changed:,} of {found.decided:,} rows get another label"
    return ""


def _batch_dependence(found: Comparison, tolerances: Tolerances, variant: Variant) -> str:
    """How a vector depends on its batch; empty if it does not."""
    worst = _worst(found.cases, of_batch=True)
    if not worst.needed <= tolerances.batch:
        return f"a vector depends on its batch: {worst.case}: off by {worst.difference:.2g}"
    if not variant.independent:
        return "a vector depends on its batch, although these comparisons do not show it"
    return ""


def _worst(cases: Iterable[CaseResult], of_batch: bool) -> CaseResult:
    return max((case for case in cases if case.of_batch == of_batch), key=lambda case: case.needed)


def _what_it_lacks(runtime: Runtime, path: Path) -> str:
    """What an ONNX graph needs that a runtime is known not to have; empty if there is nothing."""
    try:
        nodes = onnx.load(path, load_external_data=False).graph.node
    except (OSError, DecodeError):
        return ""
    if not runtime.contrib and any(node.domain == "com.microsoft" for node in nodes):
        return "an operator that only onnxruntime has"
    if not runtime.reads_lengths and any(
        node.op_type in ("LSTM", "GRU") and "".join(node.input[4:5]) for node in nodes
    ):
        return "the lengths that its LSTM or GRU takes"
    return ""


def _ignores_lengths(runtime: Runtime, variant: Variant, path: Path, checks: Sequence[Check]) -> bool:
    """Whether a loaded runtime computes a correct ONNX graph as the control does, where lengths matter.

    The graph is correct if it passes on onnxruntime. The runtime agrees with the control within ten times the
    tolerance in float32; below float32, ten times better than the control agrees with onnxruntime.
    """
    if path.suffix != ".onnx":
        return False
    control, reader = LengthsIgnored(), OnnxRuntimeCpu()
    tolerance = reader.tolerances(variant).difference
    try:
        control.load(path)
        reader.load(path)
    except Exception:  # of any type: a file that onnxruntime refuses is not a correct graph
        return False
    to_control = control_difference = 0.0
    for case, oracle in checks:
        found, cut, correct = (one.run(case.input_ids, case.attention_mask)[0] for one in (runtime, control, reader))
        if not largest(needed_tolerance(correct, oracle.vectors, *oracle.allowances()[0])) <= tolerance:
            return False
        to_control = max(to_control, largest(scaled_difference(found, cut)))
        control_difference = max(control_difference, largest(scaled_difference(cut, correct)))
    close = 10 * runtime.tolerances(variant).difference if variant.exact else control_difference / 10
    return to_control <= close < control_difference
