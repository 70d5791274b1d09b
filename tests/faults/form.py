"""How much the suite of faults does: a short form with every test run, the whole with `make faults`."""

from __future__ import annotations

import os

WHOLE = os.environ.get("LENGTHWISE_FAULTS") == "whole"


def cases(short: int, whole: int) -> int:
    """How many cases there are in the form that runs."""
    return whole if WHOLE else short
