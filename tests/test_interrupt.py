"""SIGINT and SIGTERM in processes of their own: out in time, in order where that is possible."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.interrupt import SIGNALS, Interrupted, interruptible, kept_handlers

ROOT = Path(__file__).parents[1]
BOTH = pytest.mark.parametrize("asked", SIGNALS, ids=lambda number: number.name)


def start(body: str) -> subprocess.Popen[str]:
    """A process that is in `body`, inside the block."""
    code = f"""
import hashlib, sys, threading, time
from pipeline import interrupt

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
    process.send_signal(signal.SIGTERM)
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    code, _, complained, seconds = ended(process)
    assert code == 128 + signal.SIGTERM
    assert "as it stood" in complained
    assert seconds < 10


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
