"""The artifact's README.md, written from its data."""

from __future__ import annotations

import json
from pathlib import Path

from export.artifact import ONNX_FILE, TOKENS_FILE, TORCHSCRIPT_FILE
from export.report import control_line, verdict_table
from export.validate import Validation
from pipeline.config import EncoderConfig

_LOAD_ONNX = """\
```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_padding(pad_id={pad_id}, pad_token={pad_token!r})
session = onnxruntime.InferenceSession("onnx/model.onnx", providers=["CPUExecutionProvider"])

encoded = tokenizer.encode_batch(["a short text", "another text, which is longer"]{options})
feeds = {{
    "input_ids": np.array([text.ids for text in encoded], dtype=np.int64),
    "attention_mask": np.array([text.attention_mask for text in encoded], dtype=np.int64),
}}
vectors = session.run(["sentence_embedding"], feeds)[0]  # float32[2, {dim}]
```
"""


def model_card(
    config: EncoderConfig, folder: Path, add_special_tokens: bool, validation: Validation | None = None
) -> str:
    """A card for the artifact in `folder`, whose files but the card itself are there."""
    pad_token = json.loads((folder / TOKENS_FILE).read_bytes()).get("pad_token", "[PAD]")
    options = "" if add_special_tokens else ", add_special_tokens=False"
    code = _LOAD_ONNX.format(pad_id=config.pad_token_id, pad_token=pad_token, dim=config.dim, options=options)
    directions = "bidirectional" if config.bidirectional else "unidirectional"
    layers = "1 layer" if config.num_layers == 1 else f"{config.num_layers} layers"
    projection = f", a Linear projection to {config.projection_dim}" if config.projection_dim else ""
    normalised = ", scaled to length 1" if config.normalize else ""
    untrained = (
        ""
        if config.trained
        else f"\n> **Never trained.** The weights are random (seed {config.seed}): good for measuring speed and for"
        " checking runtimes, not for comparing texts.\n"
    )
    sizes = "\n".join(
        f"| `{name}` | {(folder / name).stat().st_size / 1e6:.2f} MB |"
        for name in ("model.safetensors", ONNX_FILE, ONNX_FILE + ".data", TORCHSCRIPT_FILE)
        if (folder / name).exists()
    )
    if validation is None:
        verdicts = "Not validated yet: run `python scripts/validate_export.py` on this folder."
    else:
        verdicts = "\n".join([*verdict_table(validation.verdicts), "", control_line(validation)])
    return f"""---
library_name: lengthwise
pipeline_tag: sentence-similarity
---
# A packed LSTM text encoder
{untrained}
An embedding of {config.vocab_size:,} tokens (width {config.embedding_dim}), a {directions} LSTM of {layers} and
{config.hidden_size} units a direction, {config.pooling} pooling{projection}{normalised}: one vector of
{config.dim} float32 values a text.

| file | size |
| --- | --- |
{sizes}

## What was validated

{verdicts}

## Use

Inputs `input_ids` and `attention_mask` (int64[batch, sequence]; ones, then zeros: right padding), outputs
`sentence_embedding` (float32[batch, {config.dim}]) and `token_embeddings` (float32[batch, sequence,
{config.state_dim}]). A batch has at least one row (onnxruntime's LSTM kernel does not survive an empty one) and at
least one column, also where no row has a token; such rows get zeros.

{code}
The TorchScript file takes the same two inputs: `torch.jit.load("{TORCHSCRIPT_FILE}")(input_ids, attention_mask)`.
"""
