"""What a request can fail with; `responses.py` maps these to HTTP."""

from __future__ import annotations

from lengthwise.errors import LengthwiseError


class RequestError(LengthwiseError):
    """A request that cannot be served, with the answer for it.

    Attributes:
        status: the HTTP status.
        param: the part of the body that is wrong, e.g. `input.3`.
        code: a constant for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


class InvalidItem(LengthwiseError):
    """One item of a request cannot be encoded; `index` is its position."""

    def __init__(self, index: int, problem: str) -> None:
        super().__init__(problem)
        self.index = index


class RequestTooLarge(LengthwiseError):
    """A request has more tokens than the queue holds."""


class RequestTimeout(LengthwiseError):
    """The vectors were not computed in time."""


class Overloaded(LengthwiseError):
    """The queue is full; `retry_after` is the expected number of seconds until it is not."""

    def __init__(self, tokens: int, limit: int, retry_after: int) -> None:
        super().__init__(f"{tokens:,} of at most {limit:,} tokens are queued; try again in {retry_after} s")
        self.retry_after = retry_after


class ShuttingDown(LengthwiseError):
    """The queue is closed."""
