"""The two forms of the fault tests: a short one in every test run, the whole one in `make faults`."""

from __future__ import annotations

import os

WHOLE = os.environ.get("LENGTHWISE_FAULTS") == "whole"


def cases(short: int, whole: int) -> int:
    """The number of cases in the current form."""
    return whole if WHOLE else short
