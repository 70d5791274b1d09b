"""Private APIs of other libraries: each one exists and works, and is still needed.

A test that fails with "no longer needed" asks for its workaround to be removed from `lengthwise.util.compat`.
"""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.json
import pytest
import tokenizers
import torch
from datasets.packaged_modules.json import json as datasets_json
from torch import nn

from lengthwise.errors import DatasetError
from lengthwise.util import compat

REMOVE = "no longer needed"


# datasets and pyarrow


def test_pyarrow_dies_of_a_null_line() -> None:
    code = "import io, pyarrow.json; pyarrow.json.read_json(io.BytesIO(b'null\\n{\"a\": 1}\\n'))"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode != 0, REMOVE
    table = compat.read_json_lines(io.BytesIO(b'null\n{"a": 1}\n'))
    assert table.to_pylist() == [{"a": None}, {"a": 1}]


def test_pyarrow_parses_strings_that_look_like_times() -> None:
    line = b'{"a": "2020-01-01"}\n'
    assert pa.types.is_timestamp(pyarrow.json.read_json(io.BytesIO(line)).schema.field("a").type), REMOVE
    assert compat.read_json_lines(io.BytesIO(line)).to_pylist() == [{"a": "2020-01-01"}]


def test_json_reader_of_datasets_is_patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through its module's name for pyarrow.json."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "2020-01-01"}\n')

    def read() -> object:
        rows = datasets.load_dataset("json", data_files=str(path), split="train", streaming=True)
        return next(iter(rows))["a"]

    monkeypatch.setattr(datasets_json, "paj", pyarrow.json)
    assert read() != "2020-01-01", REMOVE
    compat.patch_json_reader()
    assert read() == "2020-01-01"


def test_version_of_datasets_without_that_reader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(datasets_json, "paj")
    with pytest.raises(DatasetError, match=r"datasets .* install the version of datasets that constraints\.txt names"):
        compat.patch_json_reader()


@pytest.fixture
def mixed_stream(tmp_path: Path) -> datasets.IterableDataset:
    """A CSV file whose column changes its type: pandas infers one per 10,000 rows."""
    path = tmp_path / "rows.csv"
    path.write_text("n\n" + "1\n" * 10_000 + "2.5\n")
    return datasets.load_dataset("csv", data_files=str(path), split="train", streaming=True).with_format("arrow")


def test_datasets_fails_to_concatenate_tables_that_differ_in_type(mixed_stream: datasets.IterableDataset) -> None:
    with pytest.raises(pa.ArrowInvalid, match="Schema at index 1 was different"):  # or it is no longer needed
        list(mixed_stream.iter(batch_size=20_000))
    tables = list(compat.iter_arrow_tables(mixed_stream, 20_000))
    assert [(len(table), str(table.schema.field("n").type)) for table in tables] == [(10_000, "int64"), (1, "double")]


def test_every_iteration_of_a_stream_starts_at_its_beginning(mixed_stream: datasets.IterableDataset) -> None:
    first, second = (compat.iter_arrow_tables(mixed_stream, 20_000) for _ in range(2))
    assert len(next(first)) == len(next(second)) == 10_000
    assert len(next(first)) == 1


def test_stream_without_tables_is_read_in_batches() -> None:
    stream = datasets.IterableDataset.from_generator(lambda: ({"n": n} for n in range(3))).with_format("arrow")
    assert [table.to_pydict() for table in compat.iter_arrow_tables(stream, 2)] == [{"n": [0, 1]}, {"n": [2]}]


# tokenizers


def test_rust_panic_has_no_importable_class() -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("(?:x+x+)+y"), "isolated")
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        tokenizer.encode("x" * 40)
    assert compat.is_tokenizers_error(caught.value)
    assert not isinstance(caught.value, Exception), REMOVE


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError(), MemoryError()])
def test_other_errors_are_not_of_the_tokenizers_library(error: BaseException) -> None:
    assert not compat.is_tokenizers_error(error)


# torch


def test_bf16_support_has_no_public_name() -> None:
    assert isinstance(compat.cpu_has_bf16(), bool)
    names = [name for name in dir(torch.backends.mkldnn) if "bf16" in name and not name.startswith("_")]
    assert not names, REMOVE


def test_vnni_support_has_no_public_name() -> None:
    assert isinstance(compat.cpu_has_vnni(), bool)
    assert not [name for name in dir(torch.cpu) if "vnni" in name and not name.startswith("_")], REMOVE


def test_onednn_linear_has_no_public_name() -> None:
    names = [name for name in dir(torch.backends.mkldnn) if "linear" in name]
    assert not names, REMOVE
    rows, weight = torch.rand(3, 5), torch.rand(4, 5)
    torch.testing.assert_close(compat.onednn_linear(weight)(rows), rows @ weight.t())


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


def test_export_fixes_the_length_of_an_lstm() -> None:
    dynamic = {"x": {0: torch.export.Dim.DYNAMIC}}
    with pytest.raises(Exception, match="specialized it to be a constant"):  # or it is no longer needed
        torch.export.export(Lstm().eval(), (torch.zeros(5, 1, 2),), dynamic_shapes=dynamic)


def test_scan_has_no_public_name() -> None:
    assert not hasattr(torch, "scan"), REMOVE
    xs = torch.arange(4.0)[:, None]
    last, sums = compat.load_scan()(lambda carry, x: (carry + x, (carry + x).clone()), torch.zeros(1), xs, dim=0)
    assert last.tolist() == [6.0]
    assert sums[:, 0].tolist() == [0.0, 1.0, 3.0, 6.0]


def test_copied_module_shares_its_children() -> None:
    module = Lstm()
    copied = copy.copy(module)
    del copied.lstm
    assert not hasattr(module, "lstm"), REMOVE


def test_copy_without_keeps_the_original_and_shares_its_weights() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    copied = compat.copy_without(module, "0")
    assert [name for name, _ in copied.named_children()] == ["1"]
    assert copied[0].weight is module[1].weight
    assert len(module) == 2


def test_torchscript_files_hold_debug_records(tmp_path: Path) -> None:
    module = torch.jit.trace(Lstm().eval(), torch.zeros(5, 1, 2), check_trace=False)
    module.save(str(tmp_path / "whole.pt"))
    compat.copy_torchscript(tmp_path / "whole.pt", tmp_path / "copy.pt")
    assert b".debug_pkl" in (tmp_path / "whole.pt").read_bytes(), REMOVE
    assert b".debug_pkl" not in (tmp_path / "copy.pt").read_bytes()
    x = torch.randn(4, 2, 2)
    torch.testing.assert_close(torch.jit.load(tmp_path / "copy.pt")(x), module(x), rtol=0, atol=0)
