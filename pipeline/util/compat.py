"""Private APIs of other libraries, and patches of them: all that this project uses, in one place.

- Each has its reason here and a test in tests/util/test_compat.py that fails once the private API is gone, or once the
  library no longer needs it, so that it gets removed.
- Importing this module imports none of the libraries; each function imports its own.
"""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from lengthwise.errors import DatasetError

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    from torch import Tensor, nn

Module = TypeVar("Module", bound="nn.Module")
_NULL_LINES = tuple(re.compile(end + rb"((?:\xef\xbb\xbf)?[ \t]*)null") for end in (b"\n", b"\r"))
_DEBUG_RECORDS = (".debug_pkl", "version", "serialization_id")  # the last two are written by the writer itself


# datasets and pyarrow


def patch_json_reader() -> None:
    """Make `datasets` read JSON lines with `read_json_lines` in place of `pyarrow.json.read_json`.

    Why: see there. `datasets` has no option that reaches pyarrow's reader.

    Raises:
        DatasetError: the installed `datasets` has no such reader to replace.
    """
    import datasets
    import pyarrow.json
    from datasets.packaged_modules.json import json as module

    if not hasattr(module, "paj"):
        raise DatasetError(
            f"datasets {datasets.__version__} does not read JSON as this version of lengthwise expects; install the"
            " version of datasets that constraints.txt names"
        )
    module.paj = SimpleNamespace(ReadOptions=pyarrow.json.ReadOptions, read_json=read_json_lines)


def read_json_lines(file: io.BytesIO, **options: Any) -> pa.Table:
    """`pyarrow.json.read_json`, for lines of JSON, without two of its faults.

    - It kills the process if a block begins with a null line (github.com/apache/arrow/issues/47409). A null row is read
      as an empty object: both have no values.
    - It parses a string that looks like a time, whose text is then lost. Such columns are read as strings.
    """
    import pyarrow as pa
    import pyarrow.json

    data = b"\n" + file.read()
    for pattern in _NULL_LINES:
        data = pattern.sub(lambda match: match[0][:-4] + b"{  }", data)
    table = pyarrow.json.read_json(io.BytesIO(data[1:]), **options)
    times = [(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)]
    if not times:
        return table
    as_strings = pyarrow.json.ParseOptions(explicit_schema=pa.schema(times))
    return pyarrow.json.read_json(io.BytesIO(data[1:]), parse_options=as_strings, **options)


def iter_arrow_tables(data: datasets.IterableDataset, batch_size: int) -> Iterator[pa.Table]:
    """A stream's tables that have rows, from its beginning, as its files give them.

    Why: the public `iter` concatenates tables before it gives them, and fails if two files, or two blocks of a file,
    differ in a column's type; here the caller casts each table on its own.

    Args:
        data: in the format "arrow".
        batch_size: rows per table, if the stream does not come from tables.
    """
    files = copy.copy(getattr(data, "_ex_iterable", None))
    if files is None or files.iter_arrow is None:
        yield from data.iter(batch_size=batch_size)
        return
    files._init_state_dict()  # the copy starts at the beginning, independently of other iterators
    yield from (table for _, table in files.iter_arrow() if table.num_rows)


# tokenizers


def is_tokenizers_error(error: BaseException) -> bool:
    """Whether the tokenizers library raised an error: it uses the bare Exception, ValueError, and Rust panics.

    Why: a panic is a BaseException of a class that cannot be imported, so it is recognized by its name.
    """
    return type(error) in (Exception, ValueError) or type(error).__name__ == "PanicException"


# torch


def onednn_has_bf16() -> bool:
    """Whether oneDNN computes in bfloat16 on this CPU, if need be by emulating it with AVX-512.

    Why: PyTorch trains an LSTM in bfloat16 with oneDNN alone, and has no public name for that.
    """
    import torch

    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def cpu_has_bf16() -> bool:
    """Whether PyTorch's LSTM computes in bfloat16 on this CPU with instructions for it.

    Why: `torch.cpu.get_capabilities` reports the CPU's instructions, not whether oneDNN uses them.
    """
    import torch

    if not onednn_has_bf16():
        return False
    found = torch.cpu.get_capabilities()
    return found.get("architecture") != "x86_64" or any(found.get(name) for name in ("avx512_bf16", "amx_bf16"))


def cpu_has_vnni() -> bool:
    """Whether oneDNN multiplies unsigned by signed 8 bits on this CPU without saturating sums of two products.

    Why: it computes in int8 on any x86 CPU, but without VNNI through 16-bit sums, and has no public name for that.
    """
    import torch

    return torch.backends.mkldnn.is_available() and bool(torch.cpu._is_vnni_supported())


def onednn_linear(weight: Tensor, rows: int = 256) -> Callable[[Tensor], Tensor]:
    """The product of [rows, inputs] with weights, [outputs, inputs], in float32 or bfloat16, laid out once for oneDNN.

    Why: PyTorch multiplies float32 through MKL, which is slow on some processors, and has no public name for this.

    Args:
        rows: that are usual.
    """
    import torch

    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda rows: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")


def load_scan() -> Callable[..., Any]:
    """The `scan` operator: `scan(step, init, xs, dim=0)` gives the last carry and the stacked outputs.

    Why: `torch.export` fixes the length of an `nn.LSTM` to that of its example; a scan keeps it dynamic, and PyTorch
    has no public name for it.
    """
    from torch._higher_order_ops.scan import scan

    return scan


def copy_without(module: Module, *children: str) -> Module:
    """A shallow copy of a module that shares its weights, without some of its children.

    Why: `copy.copy` shares the dictionary of children, so that `del` on the copy would change the original.
    """
    copied = copy.copy(module)
    copied._modules = {name: each for name, each in module._modules.items() if name not in children}
    return copied


def copy_torchscript(source: Path, target: Path) -> None:
    """Copy a TorchScript file without its debug records.

    Why: they hold the paths and source lines of the machine that traced it, and `torch.jit.save` always writes them.
    """
    import torch

    reader, writer = torch._C.PyTorchFileReader(str(source)), torch._C.PyTorchFileWriter(str(target))
    for name in reader.get_all_records():
        if not name.endswith(_DEBUG_RECORDS):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
