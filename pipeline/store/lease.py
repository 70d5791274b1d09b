"""A lock at a URL: an object that names its holder and that the holder renews.

Object stores have no locks. A lease is an object that is created only where there is none (where the store supports
that) and rewritten every `RENEW_SECONDS`; one that was not renewed for `LEASE_SECONDS`, or whose process is known to be
dead, is taken over. The writer checks a second later that the object is still its own: of two that wrote it at the same
moment, as some stores permit and as a takeover does, the last one holds it. Clocks of machines that share a folder may
differ by a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from pathlib import Path
from typing import Any, cast

from lengthwise.store.holder import describe_holder, holder_record

RENEW_SECONDS = 30.0
LEASE_SECONDS = 120.0
SETTLE_SECONDS = 1.0
_ATTEMPTS = 3


class Lease:
    """A lock object that a thread renews while it is held.

    Args:
        fs: an fsspec file system.
        path: the object's.
    """

    def __init__(self, fs: Any, path: str) -> None:
        self._fs, self._path, self._token = fs, path, uuid.uuid4().hex
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._holder = holder_record()
        self._renewed_at, self._was_lost = time.time(), False

    @property
    def is_lost(self) -> bool:
        """Whether another process may hold it by now; the store is asked if it was not renewed for too long."""
        if not self._was_lost and time.time() - self._renewed_at > LEASE_SECONDS:
            self._was_lost = not self._is_own()
        return self._was_lost

    def acquire(self) -> None:
        """Become the holder, or raise a BlockingIOError that describes the present one."""
        for _ in range(_ATTEMPTS):
            contents = self._read()  # first, since some stores overwrite an existing object on "create"
            if contents is not None:
                if is_held(contents):
                    raise BlockingIOError(describe_holder(contents))
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._path)
            if self._create():
                break
        time.sleep(SETTLE_SECONDS)
        if not self._is_own():
            raise BlockingIOError(describe_holder(self._read()))
        self._thread.start()

    def release(self) -> None:
        """Stop renewing, and remove the object if it is still this lease's."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(Exception):
            if self._is_own():
                self._fs.rm_file(self._path)

    def _create(self) -> bool:
        """Write the object; False where another process created it meanwhile."""
        self._renewed_at = time.time()
        try:
            self._fs.pipe_file(self._path, self._contents(), mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):  # the store has no such mode
            self._fs.pipe_file(self._path, self._contents())
        return True

    def _renew(self) -> None:
        while not self._released.wait(RENEW_SECONDS):
            with contextlib.suppress(Exception):  # the store cannot be reached: try again
                if not self._is_own():
                    self._was_lost = True
                    return
                now = time.time()
                self._fs.pipe_file(self._path, self._contents())
                self._renewed_at = now

    def _contents(self) -> bytes:
        record = {**self._holder, "processes": pid_namespace(), "token": self._token, "renewed": time.time()}
        return json.dumps(record).encode()

    def _is_own(self) -> bool:
        contents = self._read()
        return contents is not None and self._token.encode() in contents

    def _read(self) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return cast(bytes, self._fs.cat_file(self._path))
        return None


def is_held(contents: bytes) -> bool:
    """Whether the holder that a lock object names may still be alive."""
    try:
        record = json.loads(contents)
        same_namespace = (record["host"], record.get("processes")) == (platform.node(), pid_namespace())
        if same_namespace and not _process_exists(int(record["pid"])):
            return False
        return bool(time.time() - record["renewed"] < LEASE_SECONDS)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def pid_namespace() -> str:
    """Where this process's number is valid: containers may share their host's name, and number processes apart."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
