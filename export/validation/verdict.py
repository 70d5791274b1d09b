"""The results of a validation: one verdict per runtime and graph, and whether the artifact passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lengthwise.export.artifact.rounding import Rounding
from lengthwise.export.graphs.variants import EVERY_VARIANT
from lengthwise.export.runtimes.base import Tolerances
from lengthwise.export.validation.compare import Comparison
from lengthwise.export.validation.speed import Speeds

LENGTHS_SHOWN = (1, 8, 64)  # the report's rows for texts up to these lengths
Status = Literal["passed", "failed", "refused", "not run"]


@dataclass(frozen=True)
class Verdict:
    """The result of one runtime on one graph.

    Attributes:
        runtime: the runtime's name.
        variant: the graph's name.
        file: the file that was loaded, relative to the artifact.
        status: `refused` if the runtime rejects the file with an error, `not run` if it is not available here.
        reason: why it failed, was refused or was not run; empty if it passed.
        known: whether the failure is a known limitation of the runtime or the graph, and was found again.
        coarse: whether the graph's precision is too coarse for the encoder, which is such a limitation.
        tolerances: the limits that applied.
        comparison: what was measured; empty if nothing was.
        environment: versions, and evidence of where it ran.
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
    coarse: bool = False


@dataclass(frozen=True)
class SumScale:
    """What differences of a sum over time are divided by at the tolerance of float32, in texts up to a length.

    Attributes:
        tokens: the length.
        divisor: the largest.
        factor: the largest ratio of it to what another encoder's differences are divided by, max(1, largest |value|).
    """

    tokens: int
    divisor: float
    factor: float


@dataclass(frozen=True)
class Validation:
    """All verdicts on an artifact.

    Attributes:
        verdicts: one per runtime and graph, in the order of the request.
        control: of a graph that ignores lengths, on the same comparisons.
        lengths_matter: whether such a graph computes another function than the encoder, see `EncoderConfig`.
        speeds: milliseconds per batch, by runtime and graph.
        files: sha256 (hex), by name, of the artifact's files that the verdicts are about.
        sum_scales: of an encoder that sums states over time, by length of text; else empty.
        rounding: what rounding in float32 does to the encoder's outputs.
    """

    verdicts: tuple[Verdict, ...]
    control: Verdict
    lengths_matter: bool
    speeds: Speeds = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    sum_scales: tuple[SumScale, ...] = ()
    rounding: Rounding | None = None

    @property
    def first_by_variant(self) -> dict[str, Verdict]:
        """By graph, the verdict of the first runtime that ran it; if none did, of the first that has it."""
        found: dict[str, Verdict] = {}
        for verdict in self.verdicts:
            first = found.setdefault(verdict.variant, verdict)
            if verdict.comparison.cases and not first.comparison.cases:
                found[verdict.variant] = verdict
        return found

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The failures that are no known limitation of a runtime or a graph."""
        return tuple(verdict for verdict in self.verdicts if verdict.status == "failed" and not verdict.known)

    @property
    def without_graph(self) -> tuple[str, ...]:
        """Runtimes that ran, and on which no graph in float32 passed."""
        ran = [verdict.runtime for verdict in self.verdicts if verdict.status != "not run"]
        return tuple(dict.fromkeys(runtime for runtime in ran if runtime not in self.recommended))

    @property
    def detects_ignored_lengths(self) -> bool:
        """Whether the comparisons failed the control, or lengths do not matter to this encoder."""
        needed = self.control.comparison.needed(of_batch=False) or 0.0
        caught = self.control.status == "failed" and needed > self.control.tolerances.difference
        return caught or not self.lengths_matter

    @property
    def passed(self) -> bool:
        """Whether a runtime ran, each one that did has a graph to use, none failed, and the control was caught."""
        return bool(self.recommended) and not self.failed and not self.without_graph and self.detects_ignored_lengths

    @property
    def recommended(self) -> dict[str, str]:
        """By runtime, the graph to use: the first in float32 that passed."""
        found: dict[str, str] = {}
        for verdict in self.verdicts:
            if verdict.status == "passed" and EVERY_VARIANT[verdict.variant].exact:
                found.setdefault(verdict.runtime, verdict.variant)
        return found


def by_runtime(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Verdicts by runtime, in their order."""
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.runtime, []).append(verdict)
    return found
