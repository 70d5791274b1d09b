"""The package as it is imported: its names, and that importing it costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import lengthwise


def modules_after(code: str) -> set[str]:
    """The top-level modules that are loaded after some code, in a process of its own."""
    report = "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    command = f"import sys; before = set(sys.modules)\n{code}\n{report}"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_the_package_imports_nothing_else() -> None:
    assert modules_after("import lengthwise") - sys.stdlib_module_names == {"lengthwise"}
    assert modules_after("import lengthwise; dir(lengthwise)") - sys.stdlib_module_names == {"lengthwise"}


def test_errors_are_imported_without_the_rest() -> None:
    assert modules_after("from lengthwise import LengthwiseError") - sys.stdlib_module_names == {"lengthwise"}


def test_encoder_is_imported_without_torch_and_datasets() -> None:
    loaded = modules_after("from lengthwise import Encoder, encode_dataset, export, validate")
    assert "tokenizers" in loaded
    assert not loaded & {"torch", "datasets", "onnx", "onnxruntime", "matplotlib"}


@pytest.mark.parametrize("name", lengthwise.__all__)
def test_public_names_exist(name: str) -> None:
    value = getattr(lengthwise, name)
    assert name in dir(lengthwise)
    assert name == "__version__" or callable(value)
    assert value.__doc__


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'lengthwise' has no attribute 'Encode'"):
        lengthwise.Encode  # noqa: B018


def test_version_is_that_of_the_distribution() -> None:
    assert lengthwise.__version__ == version("lengthwise")


def test_types_are_published() -> None:
    assert (Path(str(lengthwise.__file__)).parent / "py.typed").is_file()
