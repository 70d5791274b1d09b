"""SIGINT and SIGTERM: a process ends within seconds, in any state.

Python runs signal handlers in the main thread, between two instructions; the main thread may be inside a long matrix
product or decompression, and at exit it waits for other threads. So there are two ways out:

- The ordinary one: `Interrupted` is raised in the main thread, what is being committed is committed, and temporary
  files and locks are removed.
- If that has not ended the process after `GRACE_SECONDS`, or at a second signal, a watchdog thread ends it with
  `os._exit`. Shards are committed atomically, so this loses no more than a crash does: nothing that was committed.

The watchdog thread is Python too: a library that computes without releasing the GIL delays it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

GRACE_SECONDS = 2.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_DEBOUNCE_SECONDS = 0.2  # two signals within it count as one: a terminal and a parent process may both send one
_STOP = b"\0"


class Interrupted(KeyboardInterrupt):
    """The process received SIGINT or SIGTERM. Not an Exception, so that no reader takes it for a damaged file.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells report it."""
        return 128 + self.signum


@contextlib.contextmanager
def interruptible(message: Callable[[Interrupted], str]) -> Iterator[None]:
    """Raise `Interrupted` at SIGINT or SIGTERM inside the block, and make sure that the process then ends.

    To be entered in the main thread. After a signal, the watchdog keeps running past the block until the process has
    ended. `Interrupted` is raised once, so that another signal does not interrupt the cleanup.

    Args:
        message: gives the text to print on standard error if the watchdog has to end the process.
    """
    was_raised = False

    def interrupt(signum: int, _: Any) -> None:
        nonlocal was_raised
        if not was_raised:
            was_raised = True
            raise Interrupted(signum)

    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    before = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    threading.Thread(target=_watchdog, args=(receiving, sending, message), name="interrupt", daemon=True).start()
    handlers = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        if not was_raised:
            _restore(handlers)
            signal.set_wakeup_fd(before)
            os.write(sending, _STOP)


@contextlib.contextmanager
def preserve_signal_handlers() -> Iterator[None]:
    """Restore, at the end of the block, signal handlers that a library called in it replaces."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread, so they were not replaced
            _restore(handlers)


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed from Python


def _watchdog(receiving: int, sending: int, message: Callable[[Interrupted], str]) -> None:
    """Wait for a signal, then end the process if it does not end; return if the block ends without a signal."""
    signum = None
    while signum is None:
        received = os.read(receiving, 1)
        if received == _STOP:
            os.close(receiving)
            os.close(sending)
            return
        signum = _parse_signal(received)
    _wait_for_second_signal(receiving)
    interrupted = Interrupted(signum)
    with contextlib.suppress(Exception):
        _write_stderr(f"\n{message(interrupted)}\n")
    os._exit(interrupted.exit_code)


def _wait_for_second_signal(receiving: int) -> None:
    """Return at a second signal, or after `GRACE_SECONDS`."""
    began = time.monotonic()
    while (left := began + GRACE_SECONDS - time.monotonic()) > 0:
        ready, _, _ = select.select([receiving], [], [], left)
        is_signal = ready and _parse_signal(os.read(receiving, 1)) is not None
        if is_signal and time.monotonic() - began > _DEBOUNCE_SECONDS:
            return


def _write_stderr(text: str) -> None:
    """Write to standard error without blocking: the main thread may hold its lock, or its reader may be suspended."""
    if select.select([], [2], [], 0)[1]:
        os.write(2, text.encode(errors="replace"))


def _parse_signal(received: bytes) -> int | None:
    return received[0] if received and received[0] in SIGNALS else None
