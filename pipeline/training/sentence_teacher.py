"""Models of sentence-transformers as teachers.

Where the model is a transformer with a tokenizer.json, its modules are run on batches of one length, one batch per
thread: nothing is padded, and threads do not wait for each other in the middle of a product. Other models, and those
with a prompt, are run by the library itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import TokenizationSettings
from lengthwise.errors import CheckpointError, LengthwiseError
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, load_tokenizer
from lengthwise.training.equal_lengths import EncodeIds, encode_equal_lengths
from lengthwise.training.teacher_model import TeacherModel


def load_sentence_transformer(
    folder: Path, device: Literal["cpu", "cuda"], precision: Literal["fp32", "bf16"]
) -> TeacherModel:
    """Load a model of sentence-transformers.

    Raises:
        LengthwiseError: the library is not installed.
        CheckpointError: it cannot load the model.
    """
    import torch

    model = open_library_model(folder, device, {"dtype": torch.bfloat16} if precision == "bf16" else {})
    found = sorted(folder.rglob(TOKENIZER_FILE))
    if len(found) != 1 or model.default_prompt_name is not None or not hasattr(model[0], "auto_model"):
        return TeacherModel(partial(_encode_with_library, model))
    tokenizer = load_tokenizer(found[0])
    limit = model.max_seq_length
    tokenization = TokenizationSettings(max_length=limit, truncate=limit is not None)
    threads = torch.get_num_threads()

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        tokens = tokenize_texts(list(texts), tokenizer, tokenization)
        run = _runner(model, normalize=True)
        if device == "cuda":
            return encode_equal_lengths(tokens, run, 1)
        try:
            return encode_equal_lengths(tokens, run, threads, partial(torch.set_num_threads, 1))
        finally:
            torch.set_num_threads(threads)  # a worker's setting is also the default of new threads

    return TeacherModel(encode, _runner(model, normalize=False))


def open_library_model(folder: Path, device: str, options: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """A `SentenceTransformer` of local files, for inference.

    Args:
        options: its `model_kwargs`.

    Raises:
        LengthwiseError: the library is not installed.
        CheckpointError: it cannot load the model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise LengthwiseError(
            f"the model {folder} needs sentence-transformers ({error}); install lengthwise[train]"
        ) from error
    try:
        return SentenceTransformer(str(folder), device=device, local_files_only=True, model_kwargs=dict(options)).eval()
    except Exception as error:  # of the library, of transformers, of a missing or damaged file
        raise CheckpointError(f"{folder}: sentence-transformers cannot load the model ({error})") from error


def _encode_with_library(model: Any, texts: Sequence[str]) -> NDArray[np.float32]:
    vectors = model.encode(list(texts), batch_size=64, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, np.float32)


def _runner(model: Any, *, normalize: bool) -> EncodeIds:
    """Runs the modules on rows of ids of one length; after the transformer in float32."""
    import torch

    def run(input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        ids = torch.from_numpy(input_ids).to(model.device)
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            for module in model:
                if normalize or type(module).__name__ != "Normalize":
                    features = module(features)
                    if "token_embeddings" in features:
                        features["token_embeddings"] = features["token_embeddings"].float()
        vectors: NDArray[np.float32] = features["sentence_embedding"].float().cpu().numpy()
        return vectors

    return run
