"""A folder of sentence-transformers, run in PyTorch on the CPU.

A transformer is run on ids through its modules, as the library runs them after tokenizing. Other first modules, such
as word embeddings, are given texts through the library's `encode`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.export.audit.answers import Precision
from lengthwise.export.audit.claims import read_claims
from lengthwise.export.audit.targets.base import IdTarget, TextTarget, Unanswered, check_vectors
from lengthwise.export.audit.units import token_units, word_units
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, load_tokenizer
from lengthwise.training.sentence_teacher import open_library_model

_KIND = "sentence-transformers, PyTorch on the CPU"
_PRECISIONS: dict[str, Precision] = {"torch.float16": "float16", "torch.bfloat16": "bfloat16"}


def open_sentence_transformer(folder: Path, name: str, precision: Precision | None) -> SentenceIds | SentenceTexts:
    """Open a folder.

    Raises:
        LengthwiseError: the library is not installed.
        CheckpointError: it cannot load the model.
    """
    model = open_library_model(folder, "cpu")
    found = next(iter(sorted(folder.rglob(TOKENIZER_FILE))), None)
    if found is not None and hasattr(model[0], "auto_model") and model.default_prompt_name is None:
        return SentenceIds(model, folder, name, precision)
    return SentenceTexts(model, folder, name, precision)


class SentenceIds(IdTarget):
    """A transformer of sentence-transformers, on ids."""

    kind = _KIND

    def __init__(self, model: Any, folder: Path, name: str, precision: Precision | None, threads: int = 0) -> None:
        super().__init__(name)
        self.folder, self.model, self._threads, self._given = folder, model, threads, precision
        self.precision = precision or _precision_of(model)
        self.claims = read_claims(folder)
        self.tokenizer = load_tokenizer(next(iter(sorted(folder.rglob(TOKENIZER_FILE)))))
        self.units = token_units(self.tokenizer)
        table = model[0].auto_model.get_input_embeddings()
        self.embedding_rows = None if table is None else int(table.weight.shape[0])

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `IdTarget.run`."""
        import torch

        features = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}
        try:
            with torch.inference_mode(), _torch_threads(self._threads):
                found = self.model(features)["sentence_embedding"].float().numpy()
        except Exception as error:  # of any type: the model's own code
            raise Unanswered(f"PyTorch raised {type(error).__name__}: {_line(error)}") from error
        return check_vectors(found, len(input_ids))

    def embeddings_differ(self, first: int, second: int) -> bool:
        """As `IdTarget.embeddings_differ`."""
        table = self.model[0].auto_model.get_input_embeddings()
        return table is not None and bool((table.weight[first] != table.weight[second]).any())

    def with_one_thread(self) -> SentenceIds:
        """As `Target.with_one_thread`."""
        return SentenceIds(self.model, self.folder, self.name, self._given, threads=_other_threads())

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `Target.encode_texts`, through the library, which tokenizes and cuts as users have it."""
        return _encode(self.model, texts)

    def environment(self) -> dict[str, str]:
        """As `Target.environment`."""
        return _versions()


class SentenceTexts(TextTarget):
    """Another model of sentence-transformers, on texts."""

    kind = _KIND

    def __init__(self, model: Any, folder: Path, name: str, precision: Precision | None, threads: int = 0) -> None:
        super().__init__(name)
        self.folder, self.model, self._threads = folder, model, threads
        self.precision = precision or _precision_of(model)
        self.claims = read_claims(folder)
        self.units = word_units()

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `Target.encode_texts`."""
        with _torch_threads(self._threads):
            return _encode(self.model, texts)

    def with_one_thread(self) -> SentenceTexts:
        """As `Target.with_one_thread`."""
        return SentenceTexts(self.model, self.folder, self.name, self.precision, threads=_other_threads())

    def environment(self) -> dict[str, str]:
        """As `Target.environment`."""
        return _versions()


def _encode(model: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    try:
        found = model.encode(list(texts), batch_size=max(1, len(texts)), show_progress_bar=False)
    except Exception as error:  # as above
        raise Unanswered(f"sentence-transformers raised {type(error).__name__}: {_line(error)}") from error
    return check_vectors(found, len(texts))


def _other_threads() -> int:
    """One thread; two where there is but one anyway."""
    import torch

    return 2 if torch.get_num_threads() == 1 else 1


@contextlib.contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    """So many threads within the block; 0 leaves them as they are."""
    import torch

    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _precision_of(model: Any) -> Precision:
    kinds = [type(module).__module__ for module in model.modules()]
    if any("quantized" in kind for kind in kinds):
        return "int8"
    dtypes = [str(parameter.dtype) for parameter in model.parameters()]
    return next((_PRECISIONS[dtype] for dtype in dtypes if dtype in _PRECISIONS), "float32")


def _versions() -> dict[str, str]:
    import sentence_transformers
    import torch

    return {"sentence-transformers": sentence_transformers.__version__, "torch": torch.__version__}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:240]
