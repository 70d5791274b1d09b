"""Makes, colours and writes figures as PNG files.

Notable decisions:
- Figures are objects drawn by Agg: no window, no pyplot, no global state, so a library or a thread can draw.
- matplotlib is an extra, and imported only where something is drawn.
- Colours are from the palette of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell
  apart.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from lengthwise.errors import LengthwiseError
from lengthwise.util.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, VERMILION, INK, FAINT = "#0072B2", "#E69F00", "#D55E00", "#222222", "#5F5F5F"


def check_picture_path(path: Path) -> None:
    """Raise a LengthwiseError where a picture cannot be written to `path`: said before work is done for it."""
    if path.suffix.lower() != ".png":
        raise LengthwiseError(f"{path}: pictures are written as PNG; give a name that ends in .png")
    if not path.parent.is_dir():
        raise LengthwiseError(f"{path}: there is no folder {path.parent}; make it, or choose another place")
    new_figure(1, 1)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, at 100 dots an inch.

    Raises:
        LengthwiseError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LengthwiseError(f"pictures need matplotlib ({error}); install lengthwise[plot]") from error
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_to_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", facecolor="white")
    return image.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_atomically(path, figure_to_png(figure))
