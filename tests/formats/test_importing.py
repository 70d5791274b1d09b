"""Archives as sources: unpacked, and hostile ones refused with nothing written outside."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lengthwise.errors import CheckpointError, ConfigError
from lengthwise.formats.importing import import_model, open_source
from lengthwise.formats.inspection import inspect_source
from lengthwise.formats.mapping import Mapping
from lengthwise.util.settings import parse_settings

MAPPING = {"pooling": "last", "weights": "a/w.pt", "tokens": {"vocabulary": "a/words.txt", "unknown": 1}}


def weights() -> bytes:
    torch.manual_seed(0)
    buffer = io.BytesIO()
    lstm = {f"lstm.{name}": value for name, value in torch.nn.LSTM(3, 2).state_dict().items()}
    torch.save({"emb.weight": torch.randn(4, 3), **lstm}, buffer)
    return buffer.getvalue()


def test_archives_are_models(tmp_path: Path) -> None:
    files = {"a/w.pt": weights(), "a/words.txt": b"<pad>\n<unk>\nx\ny\n"}
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    with tarfile.open(tmp_path / "m.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    mapping = parse_settings(Mapping, MAPPING, "mapping")
    for name in ("m.zip", "m.tar.gz"):
        model = import_model(tmp_path / name, mapping)
        assert model.tokenizer.encode_batch(["x y z"])[0].ids == [2, 3, 1]
    with pytest.raises(ConfigError, match="a mapping to be edited"):
        import_model(tmp_path / "m.zip")
    elsewhere = mapping.model_copy(update={"weights": "../../w.pt"})
    with pytest.raises(CheckpointError, match="is not there"):
        import_model(tmp_path / "m.zip", elsewhere)


def test_a_tar_by_its_name_may_be_weights(tmp_path: Path) -> None:
    (tmp_path / "net.pth.tar").write_bytes(weights())
    mapping = {"pooling": "last", "tokens": {"tokens": ["<pad>", "<unk>", "x", "y"], "unknown": 1}}
    assert import_model(tmp_path / "net.pth.tar", parse_settings(Mapping, mapping, "mapping")).kind == "PyTorch"


def test_files_of_a_folder_may_be_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1234").write_bytes(weights())
    (tmp_path / "snapshot" / "a").mkdir(parents=True)
    (tmp_path / "snapshot" / "a" / "w.pt").symlink_to(tmp_path / "blobs" / "1234")
    (tmp_path / "snapshot" / "a" / "words.txt").write_text("<pad>\n<unk>\nx\ny\n")
    mapping = parse_settings(Mapping, MAPPING, "mapping")
    for changes in ({}, {"weights": None}):
        assert import_model(tmp_path / "snapshot", mapping.model_copy(update=changes)).kind == "PyTorch"
    monkeypatch.chdir(tmp_path / "snapshot")
    (tmp_path / "w.pt").write_bytes(weights())
    assert import_model(Path("."), mapping).kind == "PyTorch"
    assert "weights: a/w.pt" in inspect_source(Path("../blobs/../snapshot"))[1]
    with pytest.raises(CheckpointError, match="is not there"):
        import_model(Path("."), mapping.model_copy(update={"weights": "../w.pt"}))


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt"])
def test_a_path_out_of_the_archive_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "slip.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/w.pt", weights())
        archive.writestr(name, b"x")
    with pytest.raises(CheckpointError, match="leads out of the archive"), open_source(path):
        pass
    with tarfile.open(tmp_path / "slip.tar", "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(CheckpointError, match="leads out of the archive"), open_source(tmp_path / "slip.tar"):
        pass
    assert not list(tmp_path.parent.glob("out.txt"))


def test_links_and_bombs_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "link.tar", "w") as archive:
        entry = tarfile.TarInfo("w.pt")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(CheckpointError, match="is a link"), open_source(tmp_path / "link.tar"):
        pass
    with tarfile.open(tmp_path / "bomb.tar", "w") as archive:
        entry = tarfile.TarInfo("w.pt")
        entry.size = 2**40
        archive.fileobj.write(entry.tobuf())  # type: ignore[union-attr]  # a header without the bytes that it claims
    with pytest.raises(CheckpointError, match=r"1024\.0 GiB|cannot be unpacked"), open_source(tmp_path / "bomb.tar"):
        pass
    path = tmp_path / "damaged.tar.xz"
    with tarfile.open(path, "w:xz") as archive:
        entry = tarfile.TarInfo("w.pt")
        entry.size = 200_000
        archive.addfile(entry, io.BytesIO(np.random.default_rng(0).bytes(entry.size)))
    data = path.read_bytes()
    path.write_bytes(data[:100_000] + bytes(40) + data[100_040:])
    with pytest.raises(CheckpointError, match="cannot be unpacked"), open_source(path):
        pass
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(CheckpointError, match="cannot be unpacked"), open_source(tmp_path / "cut.zip"):
        pass
