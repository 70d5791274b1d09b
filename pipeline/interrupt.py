"""SIGINT and SIGTERM: a process ends within seconds, whatever it is in the middle of.

Python runs a signal's handler in the main thread, between two of its instructions; the main thread may be in a matrix
product or a file's decompression for longer than anybody waits, and on its way out it waits for other threads besides.
So there are two ways out. The first is ordinary: `Interrupted` is raised in the main thread, what is being committed is
committed, and temporary files and locks are given back. If that has not ended the process after `GRACE_SECONDS`, or at
a second signal, a watching thread ends it as it stands. Shards are there whole or not at all, so that loses no more
than a crash does, which is nothing that was committed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

GRACE_SECONDS = 3.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to end. Not an Exception, so that no reader takes it for a damaged file.

    Attributes:
        signum: which signal asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells count."""
        return 128 + self.signum


@contextlib.contextmanager
def interruptible(message: Callable[[Interrupted], str]) -> Iterator[None]:
    """Raise `Interrupted` at SIGINT or SIGTERM inside the block, and see to it that the process then ends.

    It has to be entered in the main thread. The watch goes on after the block, until the process has ended.

    Args:
        message: what the process says if it has to be ended as it stands.
    """
    receiving, sending = os.pipe()
    os.set_blocking(sending, False)
    before = signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    threading.Thread(target=_watch, args=(receiving, message), name="interrupt", daemon=True).start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Put the handlers back that a library inside the block replaces without asking."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread, so they were not replaced
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _interrupt(signum: int, _: Any) -> None:
    raise Interrupted(signum)


def _watch(receiving: int, message: Callable[[Interrupted], str]) -> None:
    """Wait for a signal, then for the process to end."""
    signum = _asked_to_end(os.read(receiving, 1))
    while signum is None:
        signum = _asked_to_end(os.read(receiving, 1))
    waited = 0.0
    while waited < GRACE_SECONDS:
        ready, _, _ = select.select([receiving], [], [], 0.1)
        if ready and _asked_to_end(os.read(receiving, 1)) is not None and waited > 0.2:
            break  # asked again; within 0.2 s it is the same wish, from a shell and from its terminal
        waited += 0.1
    interrupted = Interrupted(signum)
    with contextlib.suppress(Exception):
        sys.stderr.write(f"\n{message(interrupted)}\n")
        sys.stderr.flush()
    os._exit(interrupted.exit_code)


def _asked_to_end(received: bytes) -> int | None:
    return received[0] if received and received[0] in SIGNALS else None
