"""Whether a graph below float32 fails because its precision is too coarse for the encoder, and not because it is wrong.

It is measured: the encoder in PyTorch, with its weights rounded as the graph's are, has to be off by half of what the
graph is off by, or more. On published and on seeded encoders both were off by the same, within a factor of 1.6. A wrong
graph is further off than its precision explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lengthwise.encoder.model import PackedEncoder
from lengthwise.export.artifact.oracle import Oracle
from lengthwise.export.graphs.variants import Variant
from lengthwise.export.runtimes.base import Tolerances
from lengthwise.export.runtimes.rounded_weights import RoundedWeights
from lengthwise.export.validation.cases import Case
from lengthwise.export.validation.compare import Comparator, Comparison

_FACTOR = 2.0


def is_too_coarse(
    found: Comparison,
    tolerances: Tolerances,
    variant: Variant,
    encoder: PackedEncoder,
    checks: Sequence[tuple[Case, Oracle]],
) -> bool:
    """Whether rounding the weights alone explains that a graph is not within its tolerances of PyTorch.

    Args:
        found: what was measured of the graph.
        checks: what it was measured on.
    """
    if variant.exact:
        return False
    runtime = RoundedWeights(encoder, variant.name)
    runtime.load(Path())
    comparator = Comparator(runtime, in_float32=False)
    for case, oracle in checks:
        comparator.compare_with_oracle(case, oracle)
    rounded = comparator.result()
    if not (found.needed(of_batch=False) or 0.0) <= max(
        tolerances.difference, _FACTOR * (rounded.needed(of_batch=False) or 0.0)
    ):
        return False
    if not _angle(found) <= max((1 - tolerances.cosine) ** 0.5, _FACTOR * _angle(rounded)):
        return False
    return found.changed_share <= max(tolerances.labels, _FACTOR * rounded.changed_share)


def _angle(found: Comparison) -> float:
    """Proportional to the largest angle to PyTorch's vector, as long as that is small."""
    return 0.0 if found.cosine is None else max(0.0, 1 - found.cosine) ** 0.5
