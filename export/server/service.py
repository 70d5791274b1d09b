"""An artifact at work for many callers at once: texts and ids in, vectors out, and whether it may be trusted.

Everything here is called from the event loop; what computes or parses runs in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import TokenizationSettings
from lengthwise.errors import ArtifactError, LengthwiseError
from lengthwise.export.artifact.engine import OnnxEngine
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.graphs.variants import VARIANTS
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.queue import BatchQueue, Job, Overloaded
from lengthwise.export.server.settings import ServeSettings
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer, load_tokenizer
from lengthwise.util.system import cpu_count

log = logging.getLogger(__name__)
T = TypeVar("T")
State = Literal["starting", "ready", "failed", "draining"]
_FIRST_TOKENS_PER_BYTE = 0.3
_SMOOTHING = 0.02
_WARM_UP_LENGTHS = (1, 7, 64)
_CANARY_SECONDS = 60.0  # that a check may wait in a long queue before that is what is wrong


class BadItem(LengthwiseError):
    """One of a request's items cannot be encoded; `index` says which."""

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


class TooMuch(LengthwiseError):
    """More than the server takes at a time."""


class DeadlineExceeded(LengthwiseError):
    """The answer was not there in time."""


class Service:
    """A loaded artifact with its queue.

    Attributes:
        state: starting, then ready; failed while golden vectors differ; draining once told to end.
    """

    def __init__(self, artifact: Artifact, settings: ServeSettings, metrics: Metrics) -> None:
        """Load the graph, warm it up and check the golden vectors.

        Raises:
            ArtifactError: it cannot be run as asked for, or does not compute its golden vectors.
        """
        self.settings, self.metrics, self.artifact = settings, metrics, artifact
        workers = settings.workers or (cpu_count() if settings.device == "cpu" else None)
        self.engine = OnnxEngine(artifact, settings.device, workers, settings.variant)
        variant = VARIANTS[self.engine.variant]
        if not variant.independent:
            raise ArtifactError(
                f"the graph {variant.name} gives a text another vector in another batch, and so is not served; choose"
                " another variant"
            )
        self.name = settings.model_name or artifact.folder.resolve().name
        self.tokenizer: TextTokenizer = load_tokenizer(artifact.folder)
        self.state: State = "starting"
        self.started = time.time()
        self._golden = artifact.load_golden()
        self._tolerance = self.engine.tolerance
        self._tokens_per_byte = _FIRST_TOKENS_PER_BYTE
        self._pool = ThreadPoolExecutor(cpu_count(), thread_name_prefix="tokenize")
        costs = replace(self.engine.costs, max_tokens=settings.max_batch_tokens)
        self.queue = BatchQueue(self.engine, costs, self.engine.workers, settings.max_queue_tokens, metrics)
        try:
            self._warm_up()
            self._check(self.engine.encode_batch(self._golden.input_ids, self._golden.lengths))
        except BaseException:
            self.close()
            raise

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.engine.config.dim

    @property
    def is_ready(self) -> bool:
        """Whether it answers, and what it answers is right."""
        return self.state == "ready" and self.queue.alive

    def set_state(self, state: State) -> None:
        """Say how it is; draining is for good."""
        if self.state != "draining":
            self.state = state
        self.metrics.ready.set(self.state == "ready")

    def close(self, *, wait: bool = True) -> None:
        """End, once everything that was accepted is done, or without waiting for it."""
        if wait:
            self.queue.close()
        self._pool.shutdown(wait=wait, cancel_futures=not wait)

    async def in_pool(self, function: Callable[[], T]) -> T:
        """What computes without waiting, away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def check_place(self, size: int) -> None:
        """Refuse a body of so many bytes where there are too few places for it.

        Raises:
            Overloaded: there are.
        """
        self.queue.check(self._expected_tokens(size))

    @contextlib.contextmanager
    def place(self, size: int) -> Iterator[list[int]]:
        """Places for a body of so many bytes; in the list stands how many are still to be given back.

        Raises:
            Overloaded: there are too few.
        """
        places = [self._expected_tokens(size)]
        self.queue.reserve(places[0])
        try:
            yield places
        finally:
            if places[0]:
                self.queue.release(places[0])

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        any_length: bool = False,
        add_special_tokens: bool | None = None,
    ) -> RaggedTokens:
        """Ids of texts; is called in the pool.

        Args:
            truncate: cut a text that is longer than this server takes.
            any_length: let a text be as long as it is: its ids are only to be shown.
            add_special_tokens: as the model says where it is left out.

        Raises:
            BadItem: a text is too long, or cannot be tokenized.
            TooMuch: they have more tokens in all than may wait.
        """
        tokens = tokenize_texts(
            texts,
            self.tokenizer,
            self._tokenization(truncate, any_length, add_special_tokens),
            bad_rows="zero",
        )
        for index, problem in tokens.bad.items():
            raise BadItem(index, f"{problem}".replace("max_length is", "at most this server takes"))
        self._learn(sum(map(len, texts)), int(tokens.offsets[-1]))
        self.metrics.truncated.inc(int(tokens.truncated.sum()))
        return self._checked(tokens)

    def _tokenization(self, truncate: bool, any_length: bool, add_special_tokens: bool | None) -> TokenizationSettings:
        """The model's own settings, within the server's limit."""
        own = self.engine.config.tokenization.override(add_special_tokens=add_special_tokens)
        if any_length:
            return own.model_copy(update={"max_length": None, "truncate": False})
        most = self.settings.max_text_tokens
        if own.max_length is not None and own.max_length <= most:
            return own.override(truncate=own.truncate or truncate)
        return own.model_copy(update={"max_length": most, "truncate": truncate})

    def shown_tokens(self, ids: NDArray[np.int32]) -> list[dict[str, Any]]:
        """Ids with what they stand for."""
        special = self.tokenizer.special_ids
        return [
            {"id": number, "text": self.tokenizer.token(number) or "", "special": number in special}
            for number in ids.tolist()
        ]

    def given_ids(self, rows: Sequence[Sequence[int]]) -> RaggedTokens:
        """Ids that a caller tokenized; they are read as they are, without special tokens.

        Raises:
            BadItem: an id is not in the vocabulary, or there are too many of them.
        """
        vocab_size, most = self.engine.config.vocab_size, self.settings.max_text_tokens
        for index, row in enumerate(rows):
            if len(row) > most:
                raise BadItem(index, f"{len(row)} tokens, but at most {most} are taken")
            wrong = next((number for number in row if not 0 <= number < vocab_size), None)
            if wrong is not None:
                shown = wrong if abs(wrong) < 10**12 else "a number of many digits"
                raise BadItem(index, f"the id is {shown}, but ids run from 0 to {vocab_size - 1} here")
        return self._checked(_ragged(rows))

    async def encode(self, tokens: RaggedTokens, places: list[int], deadline: float) -> NDArray[np.float32]:
        """Vectors of ids, float32[items, dim]; a row of none gets zeros.

        Args:
            places: from `place`.
            deadline: of `time.monotonic`.

        Raises:
            DeadlineExceeded: they were not there in time.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Job] = loop.create_future()

        def done(job: Job, error: Exception | None) -> None:
            loop.call_soon_threadsafe(_settle, answer, job, error)

        job = Job(tokens, deadline, done)
        reserved, places[0] = places[0], 0
        self.queue.submit(job, reserved)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return (await answer).vectors
        except TimeoutError:
            raise DeadlineExceeded(
                f"not done within {self.settings.request_timeout:g} s; send less, or later"
            ) from None
        finally:
            self.queue.cancel(job)

    async def watch(self) -> None:
        """Check the golden vectors for ever, through the queue, and say what came of it."""
        golden = self._golden
        rows = [row[:length].tolist() for row, length in zip(golden.input_ids, golden.lengths, strict=True)]
        tokens = _ragged(rows)  # the limits are for clients
        self.set_state("ready")
        while True:
            await asyncio.sleep(self.settings.self_check_interval)
            try:
                with self.place(0) as places:
                    self._check(await self.encode(tokens, places, time.monotonic() + _CANARY_SECONDS))
            except Overloaded:
                continue  # busy is not ill
            except Exception as error:  # whatever the runtime raises
                log.error("the golden vectors cannot be computed any more: %s", error)
                self.set_state("failed")
            else:
                self.set_state("ready")

    def info(self) -> dict[str, Any]:
        """What clients may want to know."""
        config = self.engine.config
        return {
            "model_id": self.name,
            "dim": config.dim,
            "vocab_size": config.vocab_size,
            "trained": config.trained,
            "variant": self.engine.variant,
            "runtime": self.engine.name,
            "weights": self.engine.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "add_special_tokens": self.engine.config.tokenization.add_special_tokens,
            "workers": self.engine.workers,
            "versions": self.artifact.manifest.get("versions", {}),
            "state": self.state,
            **{name: getattr(self.settings, name) for name in self.settings.model_fields if name.startswith("max_")},
        }

    def _checked(self, tokens: RaggedTokens) -> RaggedTokens:
        found, most = int(tokens.offsets[-1]), self.settings.max_queue_tokens
        if found > most:
            raise TooMuch(f"{found:,} tokens in all, but at most {most:,} are taken at a time; send fewer texts")
        return tokens

    def _expected_tokens(self, size: int) -> int:
        return max(1, int(size * self._tokens_per_byte))

    def _learn(self, size: int, tokens: int) -> None:
        if size:
            self._tokens_per_byte += _SMOOTHING * (tokens / size - self._tokens_per_byte)

    def _warm_up(self) -> None:
        """Run some shapes: onnxruntime plans its memory and picks its kernels at first use."""
        for length in _WARM_UP_LENGTHS:
            for rows in (1, 32):
                ids = np.zeros((rows, length), np.int64)
                self.engine.encode_batch(ids, np.full(rows, length, np.int64))

    def _check(self, vectors: NDArray[np.float32]) -> None:
        right = self._golden.vectors
        scale = np.maximum(1.0, np.abs(right).max(axis=1, keepdims=True))
        off = float(np.nan_to_num(np.abs(vectors - right) / scale, nan=np.inf).max())
        if not off <= self._tolerance:
            raise ArtifactError(
                f"{self.artifact.folder}: {self.engine.name} does not compute the golden vectors here: off by"
                f" {off:.2g}, and {self._tolerance:.2g} is allowed; validate the artifact on this machine"
            )


def _ragged(rows: Sequence[Sequence[int]]) -> RaggedTokens:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    no = np.zeros(len(rows), np.bool_)
    values = np.fromiter((number for row in rows for number in row), np.int32, int(offsets[-1]))
    return RaggedTokens(values, offsets, no, no)


def _settle(answer: asyncio.Future[Job], job: Job, error: Exception | None) -> None:
    if answer.done():  # nobody waits any more
        return
    if error is None:
        answer.set_result(job)
    else:
        answer.set_exception(error)
