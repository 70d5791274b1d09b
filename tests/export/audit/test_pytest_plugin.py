"""The fixture in another project's tests."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from helpers.audit_models import transformer
from helpers.small_transformer import Faults

TESTS = """
def test_sound(lengthwise_audit):
    lengthwise_audit("sound", quick=True, questions=["padding width", "neighbours"])

def test_broken(lengthwise_audit):
    lengthwise_audit("broken", quick=True, questions=["padding width", "neighbours"])
"""


def test_sound_and_broken_models(tmp_path: Path) -> None:
    transformer()(tmp_path / "sound")
    transformer(Faults(masked=False))(tmp_path / "broken")
    (tmp_path / "test_models.py").write_text(TESTS)
    # Where lengthwise was installed before it had a plugin, as in an older clone, the plugin is named.
    installed = any(entry.name == "lengthwise" for entry in entry_points(group="pytest11"))
    plugins = [] if installed else ["-p", "lengthwise.export.audit.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:xdist", *plugins, "test_models.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "PASSED test_models.py::test_sound" in done.stdout
    assert "FAILED test_models.py::test_broken" in done.stdout
    assert "Fails 1 of 2 questions: padding width." in done.stdout
    assert "cause: 2 Softmax nodes: attention without a mask" in done.stdout
    assert "Traceback" not in done.stdout
