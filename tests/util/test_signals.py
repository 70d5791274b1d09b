"""SIGINT and SIGTERM in processes of their own: out in time, in order where that is possible."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from helpers.paths import ROOT
from lengthwise.util.signals import SIGNALS, Interrupted, interruptible, kept_handlers

BOTH = pytest.mark.parametrize("asked", SIGNALS, ids=lambda number: number.name)


def start(body: str) -> subprocess.Popen[str]:
    """A process that is in `body`, inside the block."""
    code = f"""
import hashlib, sys, threading, time
from lengthwise.util import signals as interrupt

interrupt.GRACE_SECONDS = 1.0
try:
    with interrupt.interruptible(lambda interrupted: f"ended by {{interrupted}} as it stood"):
        print("inside", flush=True)
{textwrap.indent(textwrap.dedent(body), " " * 8)}
except interrupt.Interrupted as interrupted:
    print("in order", flush=True)
    sys.exit(interrupted.exit_code)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str, float]:
    """Exit code, what it said on its two streams, and the seconds until it ended."""
    began = time.monotonic()
    said, complained = process.communicate(timeout=60)
    return process.returncode, said, complained, time.monotonic() - began


@BOTH
def test_python_code_ends_in_order(asked: signal.Signals) -> None:
    process = start("""
        try:
            while True:
                time.sleep(0.01)
        finally:
            print("cleaned", flush=True)
    """)
    time.sleep(0.3)
    process.send_signal(asked)
    code, said, complained, _ = ended(process)
    assert (code, said, complained) == (128 + asked, "cleaned\nin order\n", "")


STUCK = {
    "in C": "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "waiting for a thread": """
        threading.Thread(target=lambda: time.sleep(60)).start()
        time.sleep(60)
    """,
    "swallowing it": """
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    """,
}


@BOTH
@pytest.mark.parametrize("body", STUCK.values(), ids=STUCK.keys())
def test_what_does_not_end_is_ended(asked: signal.Signals, body: str) -> None:
    process = start(body)
    time.sleep(0.3)
    process.send_signal(asked)
    code, _, complained, seconds = ended(process)
    assert code == 128 + asked
    assert complained.strip() == f"ended by {asked.name} as it stood"
    assert 0.8 < seconds < 4


def test_the_second_signal_ends_at_once() -> None:
    process = start("""
        interrupt.GRACE_SECONDS = 50.0
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    """)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    code, _, complained, seconds = ended(process)
    assert code == 128 + signal.SIGTERM
    assert "as it stood" in complained
    assert seconds < 10


def test_two_signals_of_one_wish_do_not_break_off_what_is_cleaned_up() -> None:
    """A terminal sends one to all processes, and who started this one may send it another."""
    process = start("""
        try:
            time.sleep(60)
        finally:
            print("cleaning", flush=True)
            time.sleep(0.4)
            print("cleaned", flush=True)
    """)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaning\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    code, said, complained, _ = ended(process)
    assert (code, said, complained) == (130, "cleaned\nin order\n", "")


@BOTH
def test_a_process_that_waits_for_a_thread_after_the_block_is_ended_by_the_second_signal(asked: signal.Signals) -> None:
    process = start("""
        interrupt.GRACE_SECONDS = 50.0
        threading.Thread(target=lambda: time.sleep(60)).start()
        time.sleep(60)
    """)
    time.sleep(0.3)
    process.send_signal(asked)
    assert process.stdout is not None
    assert process.stdout.readline() == "in order\n"
    time.sleep(0.4)
    process.send_signal(asked)
    code, _, complained, seconds = ended(process)
    assert code == 128 + asked
    assert complained == f"\nended by {asked.name} as it stood\n"
    assert seconds < 10


def test_a_reader_of_its_messages_that_has_gone_to_sleep_does_not_hold_it_up() -> None:
    """As a pager's: a thread waits in a write and holds the stream's lock, and the main thread waits for it."""
    process = start("""
        def write():
            while True:
                sys.stderr.write("x" * 4096)
                sys.stderr.flush()

        threading.Thread(target=write).start()
        time.sleep(60)
    """)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    process.communicate()


def test_nothing_stays_behind() -> None:
    def left() -> tuple[int, int]:
        return sum(thread.name == "interrupt" for thread in threading.enumerate()), len(os.listdir("/proc/self/fd"))

    before = left()
    for _ in range(10):
        with interruptible(str):
            pass
    deadline = time.monotonic() + 10
    while left() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left() == before


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with interruptible(str):
        assert [signal.getsignal(number) for number in SIGNALS] != before
        with kept_handlers():
            kept = [signal.getsignal(number) for number in SIGNALS]
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert [signal.getsignal(number) for number in SIGNALS] == kept
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_it_is_no_exception_that_readers_catch() -> None:
    assert not isinstance(Interrupted(signal.SIGTERM), Exception)
    assert (str(Interrupted(signal.SIGTERM)), Interrupted(signal.SIGINT).exit_code) == ("SIGTERM", 130)
