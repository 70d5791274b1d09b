"""Reads shapes from figures."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle


def bars(axes: Axes, colour: str) -> list[Rectangle]:
    """The filled bars of one colour."""
    return [
        bar for container in axes.containers for bar in container if to_hex(bar.get_facecolor()) == colour.lower()
    ]  # fmt: skip
