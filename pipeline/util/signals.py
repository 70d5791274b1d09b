"""SIGINT and SIGTERM: a process ends within seconds, whatever it is in the middle of.

Python runs a signal's handler in the main thread, between two of its instructions; the main thread may be in a matrix
product or a file's decompression for longer than anybody waits, and on its way out it waits for other threads besides.
So there are two ways out. The first is ordinary: `Interrupted` is raised in the main thread, what is being committed is
committed, and temporary files and locks are given back. If that has not ended the process after `GRACE_SECONDS`, or at
a second signal, a watching thread ends it as it stands. Shards are there whole or not at all, so that loses no more
than a crash does, which is nothing that was committed.

The watching thread is Python too: a library that computes without letting go of Python's lock holds it up.
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
_SAME_WISH_SECONDS = 0.2  # two signals within it come from one wish: of a shell and its terminal, say
_LEFT = b"\0"


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

    It has to be entered in the main thread. Once a signal has come, the watch goes on after the block, until the
    process has ended. `Interrupted` is raised once: what is being cleaned up is not broken off by another signal.

    Args:
        message: what the process says if it has to be ended as it stands.
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
    threading.Thread(target=_watch, args=(receiving, sending, message), name="interrupt", daemon=True).start()
    handlers = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        if not was_raised:
            _put_back(handlers)
            signal.set_wakeup_fd(before)
            os.write(sending, _LEFT)


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Put the handlers back that a library inside the block replaces without asking."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread, so they were not replaced
            _put_back(handlers)


def _put_back(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: of a program around Python


def _watch(receiving: int, sending: int, message: Callable[[Interrupted], str]) -> None:
    """Wait for a signal, then for the process to end; or until the block is left without one."""
    signum = None
    while signum is None:
        received = os.read(receiving, 1)
        if received == _LEFT:
            os.close(receiving)
            os.close(sending)
            return
        signum = _asked_to_end(received)
    began = time.monotonic()
    while (left := began + GRACE_SECONDS - time.monotonic()) > 0:
        ready, _, _ = select.select([receiving], [], [], left)
        asked_again = ready and _asked_to_end(os.read(receiving, 1)) is not None
        if asked_again and time.monotonic() - began > _SAME_WISH_SECONDS:
            break
    interrupted = Interrupted(signum)
    with contextlib.suppress(Exception):
        _say(f"\n{message(interrupted)}\n")
    os._exit(interrupted.exit_code)


def _say(text: str) -> None:
    """On standard error, without waiting: the main thread may hold its lock, and its reader may have gone to sleep."""
    if select.select([], [2], [], 0)[1]:
        os.write(2, text.encode(errors="replace"))


def _asked_to_end(received: bytes) -> int | None:
    return received[0] if received and received[0] in SIGNALS else None
