"""What checks share, made when the first of them asks: the device, texts, encoders, artifacts."""

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
    """A check cannot run here, and why."""


@dataclass(frozen=True)
class Found:
    """What a check found: in words, and whether it is what was asked for (None where nothing was asked)."""

    text: str
    ok: bool | None = None

    @property
    def status(self) -> Status:
        """As it is kept."""
        return "measured" if self.ok is None else "passed" if self.ok else "missed"


@dataclass(frozen=True)
class Check:
    """One row of a section: what is measured, what is asked for, and how it is found out."""

    what: str
    asked: str
    find: Callable[[Context], Found]


@dataclass(frozen=True)
class Section:
    """Checks that are shown together."""

    name: str
    title: str
    checks: Sequence[Check]


class Context:
    """One invocation of the checks.

    Attributes:
        device: where they run; cpu in a rehearsal.
        corpus: of texts, as `benchmarks.corpora` knows it.
        rows: texts of it that are encoded; `many` are encoded end to end.
        runs: of each side of a ratio.
    """

    def __init__(
        self, device: Literal["cuda", "cpu"], corpus: str, rows: int | None, many: int, runs: int, shape: str = "large"
    ) -> None:
        self.device, self.corpus, self.rows, self.many, self.runs, self.shape = device, corpus, rows, many, runs, shape
        self._known: dict[object, Any] = {}
        self._scratch = tempfile.TemporaryDirectory(prefix="gpu-check-")

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._scratch.cleanup()

    @property
    def scratch(self) -> Path:
        """A folder that is removed in the end."""
        return Path(self._scratch.name)

    @property
    def rehearsal(self) -> bool:
        """Whether this only shows that the checks work."""
        return self.device == "cpu"

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What PyTorch computes in on the device."""
        return ("fp32", "bf16") if self.rehearsal else ("fp32", "bf16", "fp16")

    def once(self, find: Callable[[Context], T]) -> T:
        """What `find` says of this context, which is asked once; what it raised is not asked for again either."""
        if find not in self._known:
            try:
                self._known[find] = find(self)
            except Exception as error:  # kept as it is, for each check that asks
                self._known[find] = error
        known = self._known[find]
        if isinstance(known, Exception):
            raise known
        return known

    @cached_property
    def _texts_and_tokenizer(self) -> tuple[list[str], TextTokenizer]:
        from lengthwise.cli.benchmarks.corpora import load_corpus

        return load_corpus(self.corpus, self.rows)

    @property
    def texts(self) -> list[str]:
        """Real texts."""
        return self._texts_and_tokenizer[0]

    @property
    def tokenizer(self) -> TextTokenizer:
        """Trained on them."""
        return self._texts_and_tokenizer[1]

    @cached_property
    def tokens(self) -> RaggedTokens:
        """Their ids, each row of ids once: repeated ones are not computed again, which would flatter a rate."""
        from lengthwise.tokens.tokenize import tokenize_texts

        tokens = tokenize_texts(self.texts, self.tokenizer)
        first, _ = tokens.distinct_rows()
        return tokens.take(first)

    @cached_property
    def encoder(self) -> PackedEncoder:
        """E300 H512 bidirectional, mean-pooled, unless another shape was asked for."""
        from lengthwise.cli.benchmarks.models import SHAPES

        return SHAPES[self.shape].encoder(self.tokenizer.vocab_size)

    def require(self, precision: Precision) -> None:
        """Leave a check that is of a precision which the device lacks.

        Raises:
            NotRun: it does.
        """
        if precision not in self.precisions:
            raise NotRun(f"PyTorch does not compute in {precision} on a CPU")

    def engine(self, precision: Precision) -> Any:
        """That encoder on the device."""
        from lengthwise.encoder.torch_engine import TorchEngine

        return TorchEngine(self.encoder, self.device, precision)

    def synchronize(self) -> None:
        """Wait until the device has done what it was told."""
        if not self.rehearsal:
            import torch

            torch.cuda.synchronize()
