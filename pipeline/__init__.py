"""From a Hugging Face dataset and a trained tokenizer to vectors, through a packed Embedding+LSTM encoder.

Importing the package imports nothing else: each name below is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lengthwise.api import Encoder
    from lengthwise.batching.collate import collate, unpack
    from lengthwise.batching.sampler import LengthBatchSampler
    from lengthwise.batching.stream import iter_batches
    from lengthwise.errors import LengthwiseError
    from lengthwise.evaluation.evaluate import evaluate
    from lengthwise.export import export_checkpoint as export
    from lengthwise.functions import audit, encode_dataset, index_vectors, search, train, validate

__version__ = "0.1.0"
__all__ = [
    "Encoder",
    "LengthBatchSampler",
    "LengthwiseError",
    "__version__",
    "audit",
    "collate",
    "encode_dataset",
    "evaluate",
    "export",
    "index_vectors",
    "iter_batches",
    "search",
    "train",
    "unpack",
    "validate",
]

_MODULES = {
    "Encoder": "lengthwise.api",
    "LengthBatchSampler": "lengthwise.batching.sampler",
    "LengthwiseError": "lengthwise.errors",
    "audit": "lengthwise.functions",
    "collate": "lengthwise.batching.collate",
    "encode_dataset": "lengthwise.functions",
    "evaluate": "lengthwise.evaluation.evaluate",
    "index_vectors": "lengthwise.functions",
    "iter_batches": "lengthwise.batching.stream",
    "search": "lengthwise.functions",
    "train": "lengthwise.functions",
    "unpack": "lengthwise.batching.collate",
    "validate": "lengthwise.functions",
}


def __getattr__(name: str) -> Any:
    if name == "export":  # the subpackage, which can be called: see its docstring
        return import_module("lengthwise.export")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
