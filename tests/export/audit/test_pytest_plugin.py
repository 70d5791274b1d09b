"""The fixture in another project's tests."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from helpers.audit_ground_truth import Faults, transformer

TEST = """
def test_promise(lengthwise_audit):
    lengthwise_audit({model!r}, quick=True, questions=["padding width", "neighbours"])
"""


def run_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    """Where lengthwise was installed before it had a plugin, as in an older clone, the plugin is named."""
    installed = any(entry.name == "lengthwise" for entry in entry_points(group="pytest11"))
    plugins = ["-p", "no:randomly", *([] if installed else ["-p", "lengthwise.export.audit.pytest_plugin"])]
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), *plugins, str(folder / "test_model.py")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_sound_and_broken_models(tmp_path: Path) -> None:
    for name, faults, code in (("sound", Faults(), 0), ("broken", Faults(masked=False), 1)):
        model = transformer(faults)(tmp_path / name / "model")
        (tmp_path / name / "test_model.py").write_text(TEST.format(model=str(model)))
        done = run_tests(tmp_path / name)
        assert done.returncode == code, done.stdout + done.stderr
        if code:
            assert "Fails 1 of 2 questions: padding width." in done.stdout
            assert "cause: 2 Softmax nodes: attention without a mask" in done.stdout
            assert "Traceback" not in done.stdout
