"""SIGINT and SIGTERM, in subprocesses: they end in time, and with cleanup where that is possible."""

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
from lengthwise.util.signals import SIGNALS, Interrupted, interruptible, preserve_signal_handlers

BOTH_SIGNALS = pytest.mark.parametrize("signum", SIGNALS, ids=lambda number: number.name)


def start(body: str) -> subprocess.Popen[str]:
    """A process that runs `body` inside the block of `interruptible`."""
    code = f"""
import hashlib, sys, threading, time
from lengthwise.util import signals

signals.GRACE_SECONDS = 1.0
try:
    with signals.interruptible(lambda interrupted: f"ended by {{interrupted}}"):
        print("inside", flush=True)
{textwrap.indent(textwrap.dedent(body), " " * 8)}
except signals.Interrupted as interrupted:
    print("exiting", flush=True)
    sys.exit(interrupted.exit_code)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    return process


def wait_for_end(process: subprocess.Popen[str]) -> tuple[int, str, str, float]:
    """Exit code, standard output, standard error, and the seconds until it ended."""
    began = time.monotonic()
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr, time.monotonic() - began


@BOTH_SIGNALS
def test_python_code_ends_with_cleanup(signum: signal.Signals) -> None:
    process = start("""
        try:
            while True:
                time.sleep(0.01)
        finally:
            print("cleaned", flush=True)
    """)
    time.sleep(0.3)
    process.send_signal(signum)
    code, stdout, stderr, _ = wait_for_end(process)
    assert (code, stdout, stderr) == (128 + signum, "cleaned\nexiting\n", "")


STUCK_CODE = {
    "C code": "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "waits for a thread": """
        threading.Thread(target=lambda: time.sleep(60)).start()
        time.sleep(60)
    """,
    "swallows exceptions": """
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    """,
}


@BOTH_SIGNALS
@pytest.mark.parametrize("body", STUCK_CODE.values(), ids=STUCK_CODE.keys())
def test_code_that_does_not_end_is_ended(signum: signal.Signals, body: str) -> None:
    process = start(body)
    time.sleep(0.3)
    process.send_signal(signum)
    code, _, stderr, seconds = wait_for_end(process)
    assert code == 128 + signum
    assert stderr.strip() == f"ended by {signum.name}"
    assert 0.8 < seconds < 4


def test_second_signal_ends_the_process_at_once() -> None:
    process = start("""
        signals.GRACE_SECONDS = 50.0
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
    code, _, stderr, seconds = wait_for_end(process)
    assert code == 128 + signal.SIGTERM
    assert "ended by SIGTERM" in stderr
    assert seconds < 10


def test_two_signals_in_a_row_do_not_interrupt_the_cleanup() -> None:
    """A terminal sends one to every process of its group, and the parent process may send another."""
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
    code, stdout, stderr, _ = wait_for_end(process)
    assert (code, stdout, stderr) == (130, "cleaned\nexiting\n", "")


@BOTH_SIGNALS
def test_second_signal_ends_a_process_that_waits_for_a_thread_after_the_block(signum: signal.Signals) -> None:
    process = start("""
        signals.GRACE_SECONDS = 50.0
        threading.Thread(target=lambda: time.sleep(60)).start()
        time.sleep(60)
    """)
    time.sleep(0.3)
    process.send_signal(signum)
    assert process.stdout is not None
    assert process.stdout.readline() == "exiting\n"
    time.sleep(0.4)
    process.send_signal(signum)
    code, _, stderr, seconds = wait_for_end(process)
    assert code == 128 + signum
    assert stderr == f"\nended by {signum.name}\n"
    assert seconds < 10


def test_suspended_reader_of_standard_error_does_not_delay_the_end() -> None:
    """Such as a pager: a thread blocks in a write and holds the stream's lock, which the main thread waits for."""
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


def test_no_thread_or_descriptor_is_left() -> None:
    def count() -> tuple[int, int]:
        return sum(thread.name == "interrupt" for thread in threading.enumerate()), len(os.listdir("/proc/self/fd"))

    before = count()
    for _ in range(10):
        with interruptible(str):
            pass
    deadline = time.monotonic() + 10
    while count() != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count() == before


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with interruptible(str):
        assert [signal.getsignal(number) for number in SIGNALS] != before
        with preserve_signal_handlers():
            kept = [signal.getsignal(number) for number in SIGNALS]
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert [signal.getsignal(number) for number in SIGNALS] == kept
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_interrupted_is_not_an_exception() -> None:
    assert not isinstance(Interrupted(signal.SIGTERM), Exception)
    assert (str(Interrupted(signal.SIGTERM)), Interrupted(signal.SIGINT).exit_code) == ("SIGTERM", 130)
