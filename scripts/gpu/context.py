"""What checks share, each created on first use: the device, texts, encoders, artifacts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from lengthwise.cli.gpu.record import Status
    from lengthwise.config import Precision
    from lengthwise.encoder.model import PackedEncoder
    from lengthwise.tokens.ragged import RaggedTokens
    from lengthwise.tokens.tokenizer import TextTokenizer

T = TypeVar("T")


class NotRun(Exception):
    """A check cannot run here; the message gives the reason."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a check: its text, and whether the target was reached (None without a target)."""

    text: str
    ok: bool | None = None

    @property
    def status(self) -> Status:
        """The status of the row."""
        return "measured" if self.ok is None else "passed" if self.ok else "missed"


@dataclass(frozen=True)
class Check:
    """One row of a section: the name of the quantity, its target, and the function that measures it."""

    name: str
    target: str
    measure: Callable[[Context], Outcome]


@dataclass(frozen=True)
class Section:
    """Checks that form one table."""

    name: str
    title: str
    checks: Sequence[Check]


class Context:
    """One invocation of the checks.

    Attributes:
        device: cuda, or cpu in a rehearsal.
        corpus: the name of the texts, see `benchmarks.corpora`.
        rows: number of texts that are encoded from ids; None for all.
        many: number of texts that are encoded from file to file.
        runs: measured runs of each side of a ratio.
        shape: of the encoder, see `benchmarks.models`.
    """

    def __init__(
        self, device: Literal["cuda", "cpu"], corpus: str, rows: int | None, many: int, runs: int, shape: str = "large"
    ) -> None:
        self.device, self.corpus, self.rows, self.many, self.runs, self.shape = device, corpus, rows, many, runs, shape
        self._cache: dict[object, Any] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="gpu-check-")

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._scratch.cleanup()

    @property
    def scratch(self) -> Path:
        """A temporary folder, removed at exit."""
        return Path(self._scratch.name)

    @property
    def rehearsal(self) -> bool:
        """Whether the checks run on the CPU, only to see that they work."""
        return self.device == "cpu"

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that are checked on the device."""
        return ("fp32", "bf16") if self.rehearsal else ("fp32", "bf16", "fp16")

    def cached(self, measure: Callable[[Context], T]) -> T:
        """The value of `measure` for this context, computed once; an error is also kept and raised again."""
        if measure not in self._cache:
            try:
                self._cache[measure] = measure(self)
            except Exception as error:  # raised again for each check that needs the value
                self._cache[measure] = error
        value = self._cache[measure]
        if isinstance(value, Exception):
            raise value
        return value

    @cached_property
    def _texts_and_tokenizer(self) -> tuple[list[str], TextTokenizer]:
        from lengthwise.cli.benchmarks.corpora import load_corpus

        return load_corpus(self.corpus, self.rows)

    @property
    def texts(self) -> list[str]:
        """The texts of the corpus."""
        return self._texts_and_tokenizer[0]

    @property
    def tokenizer(self) -> TextTokenizer:
        """A tokenizer trained on the texts."""
        return self._texts_and_tokenizer[1]

    @cached_property
    def tokens(self) -> RaggedTokens:
        """The ids of the texts, without repeated rows: those are computed once, which would raise the rate."""
        from lengthwise.tokens.tokenize import tokenize_texts

        tokens = tokenize_texts(self.texts, self.tokenizer)
        first, _ = tokens.distinct_rows()
        return tokens.take(first)

    @cached_property
    def encoder(self) -> PackedEncoder:
        """The encoder whose rates are measured; by default E300 H512 bidirectional, mean-pooled."""
        from lengthwise.cli.benchmarks.models import SHAPES

        return SHAPES[self.shape].encoder(self.tokenizer.vocab_size)

    def require(self, precision: Precision) -> None:
        """Require a precision.

        Raises:
            NotRun: the device lacks it.
        """
        if precision not in self.precisions:
            raise NotRun(f"PyTorch does not compute in {precision} on a CPU")

    def engine(self, precision: Precision) -> Any:
        """The encoder on the device."""
        from lengthwise.encoder.torch_engine import TorchEngine

        return TorchEngine(self.encoder, self.device, precision)

    def synchronize(self) -> None:
        """Wait until all kernels have finished."""
        if not self.rehearsal:
            import torch

            torch.cuda.synchronize()
