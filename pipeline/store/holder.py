"""The process that holds a lock, as the lock's file records it."""

from __future__ import annotations

import json
import os
import platform
import time


def holder_record() -> dict[str, str | int]:
    """This process, as JSON-ready values."""
    return {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}


def describe_holder(contents: bytes | None) -> str:
    """The process that a lock's file names, for messages."""
    try:
        record = json.loads(contents or b"")
        return f"process {record['pid']} on {record['host']}, since {record['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"
