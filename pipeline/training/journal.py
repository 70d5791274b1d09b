"""The log of a training run: one JSON object per line, in `log.jsonl`.

A resumed run first removes the lines of steps that it will make again, so that the log reads as that of an undisturbed
run, but for its times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lengthwise.errors import StoreError
from lengthwise.util.files import write_atomically

LOG_FILE = "log.jsonl"


class Journal:
    """Appends to the log.

    Attributes:
        path: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_FILE

    def resume(self, step: int) -> None:
        """Keep the lines up to a step.

        Raises:
            StoreError: the file cannot be written.
        """
        kept = [line for line in self.read() if line["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line, which has a `step`.

        Raises:
            StoreError: the file cannot be written.
        """
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(dict(line)) + "\n")
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({error}); fix that; the run then continues") from error

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; none where there is no file."""
        try:
            lines = self.path.read_text("utf-8").split("\n")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path}: cannot be read ({error}); remove it") from error
        found = []
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:  # the last line of a run that was killed
                continue
            if isinstance(value, dict) and isinstance(value.get("step"), int):
                found.append(value)
        return found
