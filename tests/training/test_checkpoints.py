"""Checkpoints of training: the newest whole one is found, old ones go, and nothing is lost in between."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from lengthwise.training.checkpoints import Checkpoints, Snapshot


def snapshot(step: int) -> Snapshot:
    tensors = {"weights.a": torch.full((3, 2), float(step)), "random": torch.arange(5, dtype=torch.uint8)}
    return Snapshot(step, {"step": step, "credits": [0.1 + 0.2]}, tensors)


def test_newest_is_read_back_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    for step in (5, 50, 500):
        checkpoints.save(snapshot(step))
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    assert (found.step, found.record) == (500, snapshot(500).record)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in snapshot(500).tensors.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000050", "step-00000500"]


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "short", "changed"])
def test_damaged_checkpoint_is_left_out(
    tmp_path: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(snapshot(step))
    path = tmp_path / "step-00000002" / file
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(data[: len(data) // 2])
    elif file == "state.json":
        path.write_text(json.dumps({**json.loads(data), "sha256": "0"}))
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with caplog.at_level(logging.WARNING):
        found = checkpoints.latest()
    assert found is not None
    assert found.step == 1
    assert "step-00000002: left out, since it is damaged" in caplog.text


def test_what_a_killed_save_left_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(snapshot(1))
    (tmp_path / "step-00000001").rename(tmp_path / ".step-00000002.part")
    assert checkpoints.latest() is None
    checkpoints.save(snapshot(2))
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 2
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []
