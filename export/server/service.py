"""A loaded artifact behind a queue: texts and ids in, vectors out, and whether the golden vectors are reproduced.

Methods are called from the event loop, except `tokenize` and `check_ids`, which run in the thread pool.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lengthwise import __version__
from lengthwise.config import TokenizationSettings
from lengthwise.encoder.engine import Engine
from lengthwise.errors import ArtifactError
from lengthwise.export.artifact.folder import Artifact
from lengthwise.export.server.engines import cache_states, open_engine
from lengthwise.export.server.errors import InvalidItem, Overloaded, RequestTimeout, RequestTooLarge
from lengthwise.export.server.metrics import Metrics
from lengthwise.export.server.queue import BatchQueue, Job, Reservation
from lengthwise.export.server.settings import ServeSettings
from lengthwise.tokens.ragged import RaggedTokens
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TextTokenizer, load_tokenizer
from lengthwise.util.system import cpu_count

log = logging.getLogger(__name__)
T = TypeVar("T")
State = Literal["starting", "ready", "failed", "draining"]
_INITIAL_TOKENS_PER_BYTE = 0.3
_SMOOTHING = 0.02
_WARMUP_LENGTHS = (1, 7, 64)
_SELF_CHECK_TIMEOUT = 60.0  # seconds, the wait in a long queue included


class Service:
    """A loaded artifact and its queue.

    Attributes:
        state: starting, then ready; failed while the golden vectors differ; draining during shutdown.
    """

    def __init__(self, artifact: Artifact, settings: ServeSettings, metrics: Metrics) -> None:
        """Load the graph, warm it up and check the golden vectors.

        Raises:
            ArtifactError: it cannot run with these settings, or does not reproduce its golden vectors.
        """
        self.settings, self.metrics, self.artifact = settings, metrics, artifact
        self._served = open_engine(artifact, settings)
        self.engine: Engine = self._served.engine
        if not self._served.independent:
            raise ArtifactError(
                f"with the graph {self._served.graph} a text's vector depends on its batch, so it is not served; choose"
                " another variant"
            )
        self.name = settings.model_name or artifact.folder.resolve().name
        self.tokenizer: TextTokenizer = load_tokenizer(artifact.folder)
        self.state: State = "starting"
        self.started = time.time()
        self._golden = artifact.load_golden()
        self._tolerance = self._served.tolerance
        self._tokens_per_byte = _INITIAL_TOKENS_PER_BYTE
        self._pool = ThreadPoolExecutor(cpu_count(), thread_name_prefix="tokenize")
        self._tokenization = cache(self._resolve_tokenization)
        costs = replace(self.engine.costs, max_tokens=settings.max_batch_tokens)
        padding = self.engine.config.padding
        if padding is not None:  # even a short text takes so many cells
            costs = costs.with_limits(max_rows=max(1, settings.max_batch_tokens // padding.to))
        self.queue = BatchQueue(self.engine, costs, self._served.workers, settings.max_queue_tokens, metrics)
        try:
            self._warmup()
            self._check_golden(self.engine.encode_batch(self._golden.input_ids, self._golden.lengths))
        except BaseException:
            self.close()
            raise
        self._states = cache_states(self.engine, settings)
        if not isinstance(self._states, str):
            metrics.watch_states(self._states)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return self.engine.config.dim

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self.state == "ready" and self.queue.is_alive

    def set_state(self, state: State) -> None:
        """Set the state; draining is final."""
        if self.state != "draining":
            self.state = state
        self.metrics.ready.set(self.state == "ready")

    def close(self, *, wait: bool = True) -> None:
        """Stop, after everything that was accepted is computed, or without waiting for it."""
        if wait:
            self.queue.close()
        self._pool.shutdown(wait=wait, cancel_futures=not wait)

    async def run_in_pool(self, function: Callable[[], T]) -> T:
        """Run a function in the thread pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    def check_capacity(self, size: int) -> None:
        """Check that the queue can take a body of so many bytes.

        Raises:
            Overloaded: it cannot.
        """
        self.queue.check_capacity(self._expected_tokens(size))

    def reserve(self, size: int) -> Reservation:
        """Reserve capacity for a body of so many bytes.

        Raises:
            Overloaded: there is too little.
        """
        return self.queue.reserve(self._expected_tokens(size))

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        any_length: bool = False,
        add_special_tokens: bool | None = None,
    ) -> RaggedTokens:
        """Ids of texts.

        Args:
            truncate: truncate a text that is too long instead of refusing it.
            any_length: accept texts of any length, whose ids are not encoded.
            add_special_tokens: None for the model's own setting.

        Raises:
            InvalidItem: a text is too long, or cannot be tokenized.
            RequestTooLarge: the texts have more tokens than the queue holds.
        """
        tokenization = self._tokenization(truncate, any_length, add_special_tokens)
        tokens = tokenize_texts(texts, self.tokenizer, tokenization, bad_rows="zero")
        for index, problem in tokens.bad.items():
            raise InvalidItem(index, f"{problem}".replace("max_length is", "this server accepts at most"))
        self._update_tokens_per_byte(sum(map(len, texts)), int(tokens.offsets[-1]))
        if tokenization.truncate:
            self.metrics.truncated.inc(int(tokens.truncated.sum()))
        return self._check_size(tokens)

    def _resolve_tokenization(
        self, truncate: bool, any_length: bool, add_special_tokens: bool | None
    ) -> TokenizationSettings:
        """The model's own settings, limited to the server's maximum length."""
        own = self.engine.config.tokenization.override(add_special_tokens=add_special_tokens)
        if any_length:
            return own.model_copy(update={"max_length": None, "truncate": False})
        limit = self.settings.max_text_tokens
        if own.max_length is not None and own.max_length <= limit:
            return own.override(truncate=own.truncate or truncate)
        return own.model_copy(update={"max_length": limit, "truncate": truncate})

    def describe_tokens(self, ids: NDArray[np.int32]) -> list[dict[str, Any]]:
        """Ids with their texts, and whether they are special."""
        special = self.tokenizer.special_ids
        return [
            {"id": number, "text": self.tokenizer.token(number) or "", "special": number in special}
            for number in ids.tolist()
        ]

    def check_ids(self, rows: Sequence[Sequence[int]]) -> RaggedTokens:
        """Ids that a client tokenized; no special tokens are added.

        Raises:
            InvalidItem: an id is not in the vocabulary, or a row is too long.
            RequestTooLarge: the rows have more tokens than the queue holds.
        """
        vocab_size, limit = self.engine.config.vocab_size, self.settings.max_text_tokens
        for index, row in enumerate(rows):
            if len(row) > limit:
                raise InvalidItem(index, f"{len(row)} tokens, but at most {limit} are accepted")
            wrong = next((number for number in row if not 0 <= number < vocab_size), None)
            if wrong is not None:
                shown = wrong if abs(wrong) < 10**12 else "too large to be shown"
                raise InvalidItem(index, f"the id is {shown}, but ids run from 0 to {vocab_size - 1}")
        return self._check_size(_to_ragged(rows))

    async def encode(self, tokens: RaggedTokens, reservation: Reservation, deadline: float) -> NDArray[np.float32]:
        """Vectors of ids, float32[items, dim]; a row without ids gets zeros.

        Args:
            reservation: the request's, from `reserve`.
            deadline: on the clock of `time.monotonic`.

        Raises:
            RequestTimeout: they were not computed in time.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Job] = loop.create_future()

        def on_done(job: Job, error: Exception | None) -> None:
            loop.call_soon_threadsafe(_set_result, result, job, error)

        job = Job(tokens, deadline, on_done)
        self.queue.submit(job, reservation)
        seconds = self.settings.request_timeout
        late = RequestTimeout(f"not computed within {seconds:g} s; send fewer texts, or try again later")
        timer = loop.call_later(deadline - time.monotonic(), _set_result, result, job, late)
        try:
            return (await result).vectors
        finally:
            timer.cancel()
            self.queue.cancel(job)

    async def watch(self) -> None:
        """Check the golden vectors through the queue at every interval, and set the state."""
        golden = self._golden
        rows = [row[:length].tolist() for row, length in zip(golden.input_ids, golden.lengths, strict=True)]
        tokens = _to_ragged(rows)  # not `check_ids`: the limits are for clients
        self.set_state("ready")
        while True:
            await asyncio.sleep(self.settings.self_check_interval)
            try:
                with self.reserve(0) as reservation:
                    vectors = await self.encode(tokens, reservation, time.monotonic() + _SELF_CHECK_TIMEOUT)
                self._check_golden(vectors)
            except Overloaded:
                continue  # a full queue is no failure
            except Exception as error:  # any error of the runtime
                log.error("the golden vectors are not reproduced: %s", error)
                self.set_state("failed")
            else:
                self.set_state("ready")

    def predict(self, vectors: NDArray[np.float32], *, raw_scores: bool) -> list[list[dict[str, Any]]]:
        """Of each row of vectors, its labels and their scores, the largest first.

        Args:
            raw_scores: logits instead of probabilities.

        Raises:
            ValueError: the model has no labels.
        """
        classifier = self.engine.classifier
        if classifier is None:
            raise ValueError("the model has no labels")
        logits = classifier.logits(vectors)
        scores = logits if raw_scores else classifier.probabilities(logits)
        orders = np.argsort(-logits, axis=1, kind="stable")
        return [
            [{"score": float(row[number]), "label": classifier.labels[number]} for number in order]
            for row, order in zip(scores, orders, strict=True)
        ]

    def info(self) -> dict[str, Any]:
        """Model, limits and versions, for GET /info, including what clients of Text Embeddings Inference read."""
        config = self.engine.config
        return {
            "model_id": self.name,
            "model_sha": self.engine.fingerprint,
            "model_dtype": "float32",
            "model_type": {"embedding": {"pooling": config.pooling}},
            "max_input_length": self.settings.max_text_tokens,
            "max_client_batch_size": self.settings.max_items,
            "auto_truncate": config.tokenization.truncate,
            "version": __version__,
            "dim": config.dim,
            "labels": list(config.labels),
            "vocab_size": config.vocab_size,
            "trained": config.trained,
            "variant": self._served.graph,
            "runtime": self.engine.name,
            "weights": self.engine.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "add_special_tokens": self.engine.config.tokenization.add_special_tokens,
            "workers": self._served.workers,
            "versions": self.artifact.manifest.get("versions", {}),
            "state": self.state,
            "state_cache": self._describe_states(),
            **{name: getattr(self.settings, name) for name in self.settings.model_fields if name.startswith("max_")},
        }

    def _describe_states(self) -> dict[str, Any]:
        """What is kept of other requests, or why nothing is."""
        return {"off": self._states} if isinstance(self._states, str) else self._states.counts()

    def _check_size(self, tokens: RaggedTokens) -> RaggedTokens:
        count, limit = int(tokens.offsets[-1]), self.settings.max_queue_tokens
        if count > limit:
            raise RequestTooLarge(f"{count:,} tokens, but at most {limit:,} are accepted; send fewer texts")
        return tokens

    def _expected_tokens(self, size: int) -> int:
        return max(1, int(size * self._tokens_per_byte))

    def _update_tokens_per_byte(self, size: int, tokens: int) -> None:
        if size:
            self._tokens_per_byte += _SMOOTHING * (tokens / size - self._tokens_per_byte)

    def _warmup(self) -> None:
        """Run some shapes: onnxruntime plans its memory and selects its kernels at first use."""
        for length in _WARMUP_LENGTHS:
            for rows in (1, 32):
                ids = np.zeros((rows, length), np.int64)
                self.engine.encode_batch(ids, np.full(rows, length, np.int64))

    def _check_golden(self, vectors: NDArray[np.float32]) -> None:
        error = self._golden.needed_tolerance(vectors, in_float32=self._served.in_float32)
        if not error <= self._tolerance:
            raise ArtifactError(
                f"{self.artifact.folder}: {self.engine.name} does not reproduce the golden vectors here: they differ by"
                f" {error:.2g}, and {self._tolerance:.2g} is allowed; validate the artifact on this machine"
            )


def _to_ragged(rows: Sequence[Sequence[int]]) -> RaggedTokens:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    flags = np.zeros(len(rows), np.bool_)
    values = np.fromiter((number for row in rows for number in row), np.int32, int(offsets[-1]))
    return RaggedTokens(values, offsets, flags, flags)


def _set_result(result: asyncio.Future[Job], job: Job, error: Exception | None) -> None:
    if result.done():  # the request was cancelled
        return
    if error is None:
        result.set_result(job)
    else:
        result.set_exception(error)
