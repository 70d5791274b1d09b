"""Inspections of folders and archives with several files of weights: each is listed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from lengthwise.errors import LengthwiseError
from lengthwise.formats import inspection
from lengthwise.formats.inspection import inspect_source

WORDS = {word: number for number, word in enumerate(["<pad>", "<unk>", "a", "b", "c"])}


def state(**parts: nn.Module) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of a head, a vocabulary in a pickle, a pickle of an object, and weights of an LSTM."""
    place = tmp_path / "source"
    (place / "nets").mkdir(parents=True)
    torch.save(state(fc=nn.Linear(3, 2)), place / "a_head.pt")
    (place / "b_words.pkl").write_bytes(pickle.dumps(WORDS))
    torch.save(nn.Linear(2, 2), place / "c_module.pt")
    torch.save(state(emb=nn.Embedding(5, 4), lstm=nn.LSTM(4, 3)), place / "nets" / "d.PT")
    np.savez(place / "nets" / "e.npz", table=np.zeros((2, 2), np.float32))
    (place / "readme.txt").write_text("no weights")
    return place


def test_each_file_is_listed(folder: Path, tmp_path: Path) -> None:
    report, mapping = inspect_source(folder)
    lines = report.splitlines()
    assert lines[0] == f"{folder}: 5 files that may be weights"
    assert "a_head.pt: 2 tensors" in lines
    assert lines[lines.index("b_words.pkl: a pickle without weights") + 1] == "  <pad>: 0"
    assert any(line.startswith("c_module.pt: a pickle of torch.nn.modules.linear.Linear") for line in lines)
    assert "nets/d.PT: 5 tensors" in lines
    assert "nets/e.npz: 1 tensors" in lines
    first, *_ = mapping.splitlines()
    assert first == "# the first with recurrent layers; weights may also be a_head.pt, nets/e.npz"
    found = yaml.safe_load(mapping)
    assert (found["weights"], found["rnn"], found["embedding"]) == ("nets/d.PT", "lstm", "emb.weight")
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    zipped, same = inspect_source(tmp_path / "source.zip")
    assert same == mapping
    assert zipped.splitlines()[1:] == lines[1:]


def test_layers_between_the_states_and_the_labels_are_listed(tmp_path: Path) -> None:
    attention = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    head = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    parts = {"emb": nn.Embedding(5, 4), "rnn": nn.GRU(4, 3, bidirectional=True), "attention": attention, "head": head}
    torch.save({"state_dict": state(**parts), "words": WORDS}, tmp_path / "net.pt")
    _, mapping = inspect_source(tmp_path / "net.pt")
    found = yaml.safe_load(mapping)
    assert found["attention"] == {"hidden": "attention.0", "score": "attention.2"}
    assert found["classifier"]["layer"] == "head.3"
    assert "ignore" not in found
    dense = next(line for line in mapping.splitlines() if line.startswith("# dense: "))
    written, _, about = dense.removeprefix("# ").partition(" # ")
    assert yaml.safe_load(written) == {"dense": [{"layer": "head.0", "activation": "relu"}, {"layer": "head.1"}]}
    assert about.startswith("6 to 5, reads the pooled states; a batch normalization; ")


def test_files_are_not_read_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_MOST_FILES", 2)
    report, mapping = inspect_source(folder)
    assert report.endswith("3 more, which were not read")
    assert yaml.safe_load(mapping)["weights"] == "a_head.pt"


def test_a_folder_of_unreadable_files_is_refused(folder: Path) -> None:
    for name in ("a_head.pt", "nets/d.PT", "nets/e.npz"):
        (folder / name).unlink()
    with pytest.raises(LengthwiseError, match="none of them can be read"):
        inspect_source(folder)
