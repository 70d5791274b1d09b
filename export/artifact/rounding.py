"""What rounding in float32 does to an encoder's outputs: PyTorch in float32 against PyTorch in float64.

- Trained recurrent layers can amplify a rounding error from token to token, so that no two implementations in float32
  agree to 1e-6. By how much is not read off the weights: a bound that holds for any text multiplies the norms of their
  matrices once per token, and so allows everything. It is measured, on the rows that are compared.
- A difference is of two implementations that both round, and others round more in tanh and sigmoid than PyTorch does:
  differences of up to three times the distance of PyTorch's float32 from float64 were found. So `FACTOR` times that
  distance is allowed, where it is more than the tolerance of the runtime. An encoder that amplifies nothing is judged
  by the tolerance alone, as ever.
- A short text has had few tokens to amplify anything. So what is allowed depends on a text's length: the largest
  distance that was found in texts of up to as many tokens. A wrong graph is wrong in short texts too.
- Above `LARGEST`, nothing more is allowed: vectors of which float32 leaves three digits are not reproducible, and an
  encoder of such vectors fails.
- Precisions below float32 get nothing of this when they are compared with PyTorch: they have tolerances of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.artifact.difference import LARGEST
from lengthwise.export.runtimes.tolerances import CPU_TOLERANCE

FACTOR = 8.0


@dataclass(frozen=True)
class RowRounding:
    """The distances of float32 from float64, per row of a batch: the largest of its values.

    Attributes:
        vectors: float64[batch].
        states: float64[batch], over all its tokens.
        logits: float64[batch]; zeros without labels.
    """

    vectors: NDArray[np.float64]
    states: NDArray[np.float64]
    logits: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> RowRounding:
        """Those of some rows."""
        return RowRounding(self.vectors[rows], self.states[rows], self.logits[rows])


@dataclass(frozen=True)
class Rounding:
    """The largest distances of float32 from float64 in texts of up to so many tokens.

    Attributes:
        tokens: int64[n], ascending.
        vectors, states, logits: float64[n], ascending.
    """

    tokens: NDArray[np.int64]
    vectors: NDArray[np.float64]
    states: NDArray[np.float64]
    logits: NDArray[np.float64]

    @classmethod
    def collect(cls, rows: Iterable[tuple[NDArray[np.int64], RowRounding]]) -> Rounding:
        """From the rows of batches, each with the rows' numbers of tokens."""
        found = list(rows)
        lengths = np.concatenate([np.zeros(1, np.int64), *(lengths for lengths, _ in found)])
        tokens, places = np.unique(lengths, return_inverse=True)

        def largest(name: str) -> NDArray[np.float64]:
            values = np.concatenate([np.zeros(1), *(getattr(each, name) for _, each in found)])
            by_length = np.zeros(len(tokens))
            np.maximum.at(by_length, places, values)
            return np.maximum.accumulate(by_length)

        return cls(tokens, largest("vectors"), largest("states"), largest("logits"))

    def allowed(self, lengths: NDArray[np.int64]) -> RowRounding:
        """What values of rows of these lengths, int64[rows], may differ by for their rounding."""
        places = np.searchsorted(self.tokens, lengths, side="right") - 1
        return RowRounding(*(FACTOR * each[places] for each in (self.vectors, self.states, self.logits)))

    @property
    def amplifies(self) -> bool:
        """Whether rounding does so much that more than the tolerance of float32 on a CPU is allowed."""
        return FACTOR * max(each.max(initial=0) for each in (self.vectors, self.states, self.logits)) > CPU_TOLERANCE

    def by_length(self, limits: Sequence[int]) -> list[tuple[int, float, float]]:
        """Tokens, and the distances of vectors and states in texts of up to so many: these limits, and the longest."""
        longest = int(self.tokens[-1])
        ends = [*(limit for limit in limits if limit < longest), longest]
        places = np.searchsorted(self.tokens, ends, side="right") - 1
        return [(end, float(self.vectors[at]), float(self.states[at])) for end, at in zip(ends, places, strict=True)]

    def sentence(self) -> str:
        """What rounding does, for people."""
        return (
            f"PyTorch's float32 is itself up to {self.vectors[-1]:.1e} from float64 in a vector, and"
            f" {self.states[-1]:.1e} in a token's state; {FACTOR:.0f} times that is allowed, by length of text"
        )

    def record(self) -> dict[str, Any]:
        """For a JSON file: where the distances grow, and how they are used."""
        found = {"vectors": self.vectors, "states": self.states, "logits": self.logits}
        grows = np.append(np.any([each[1:] > each[:-1] for each in found.values()], axis=0), True)
        return {
            "what": "largest distance of PyTorch's float32 from float64, in texts of up to so many tokens",
            "factor": FACTOR,
            "largest_allowed": LARGEST,
            "tokens": self.tokens[grows].tolist(),
            **{name: each[grows].tolist() for name, each in found.items()},
        }
