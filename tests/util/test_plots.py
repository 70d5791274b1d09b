"""Figures as files: the path is checked before the work, and a missing matplotlib is reported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from matplotlib.image import imread

from lengthwise.errors import LengthwiseError
from lengthwise.util.plots import check_picture_path, new_figure, save_figure


def test_check_picture_path_refuses_other_formats_and_missing_folders(tmp_path: Path) -> None:
    check_picture_path(tmp_path / "plan.PNG")
    with pytest.raises(LengthwiseError, match=r"there is no folder .*none; make it, or choose another place"):
        check_picture_path(tmp_path / "none/plan.png")
    with pytest.raises(LengthwiseError, match=r"plan.svg: pictures are written as PNG"):
        check_picture_path(tmp_path / "plan.svg")
    assert not list(tmp_path.iterdir())


def test_check_picture_path_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LengthwiseError, match=r"install lengthwise\[plot\]"):
        check_picture_path(tmp_path / "plan.png")


def test_save_figure_writes_a_png_of_its_size(tmp_path: Path) -> None:
    save_figure(new_figure(2, 1), tmp_path / "figure.png")
    assert imread(tmp_path / "figure.png").shape[:2] == (100, 200)
