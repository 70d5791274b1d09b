"""The artifact's README.md, written from its data."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from lengthwise.config import EncoderConfig
from lengthwise.errors import LengthwiseError
from lengthwise.export.artifact.folder import (
    CARD_FILE,
    PROGRAM_FILE,
    TOKENS_FILE,
    TORCHSCRIPT_FILE,
    VALIDATION_JSON,
    VALIDATION_MD,
    VALIDATION_PNG,
    Artifact,
)
from lengthwise.export.graphs.variants import NATIVE, PORTABLE, VARIANTS
from lengthwise.export.validation.report import (
    control_line,
    deployment_table,
    matrix,
    validation_to_json,
    validation_to_markdown,
)
from lengthwise.export.validation.validate import Validation

_SNIPPETS = """\
### Python, with Lengthwise

Texts of any lengths in any number; batches are planned inside, and PyTorch need not be installed.

```python
from lengthwise.export.artifact.engine import OnnxEncoder

encoder = OnnxEncoder.load(".")
vectors = encoder.encode(["a short text", "another text, which is longer"])  # float32[2, {dim}]
```

### Python, onnxruntime alone

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_padding(pad_id={pad_id}, pad_token={pad_token!r})
{truncation}session = onnxruntime.InferenceSession("{native}", providers=["CPUExecutionProvider"])

encoded = tokenizer.encode_batch(["a short text", "another text, which is longer"]{options})
feeds = {{
    "input_ids": np.array([text.ids for text in encoded], dtype=np.int64),
    "attention_mask": np.array([text.attention_mask for text in encoded], dtype=np.int64),
}}
vectors = session.run(["sentence_embedding"], feeds)[0]  # float32[2, {dim}]
```

### Node

```javascript
import ort from "onnxruntime-node"; // in a browser: import * as ort from "onnxruntime-web"

const session = await ort.InferenceSession.create("{native}");
const rows = [[5, 6, 7], [5, 6]]; // ids
const columns = Math.max(...rows.map((row) => row.length));
const padded = rows.flatMap((row) => [...row, ...Array(columns - row.length).fill({pad_id})]);
const mask = rows.flatMap((row) => [...Array(row.length).fill(1), ...Array(columns - row.length).fill(0)]);
const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [rows.length, columns]);
const feeds = {{ input_ids: tensor(padded), attention_mask: tensor(mask) }};
const {{ sentence_embedding }} = await session.run(feeds);
console.log(JSON.stringify({{ dims: sentence_embedding.dims, data: [...sentence_embedding.data] }}));
```
"""
_TRANSFORMERS_JS = """\
### transformers.js

`dtype` picks the graph: `fp32`, or `fp16` or `int8` where that file is here. `sentence_embedding` is the vector; a
pipeline would pool the states of the tokens itself.

```javascript
import {{ AutoModel, AutoTokenizer, env }} from "@huggingface/transformers";

env.allowRemoteModels = false;
const tokenizer = await AutoTokenizer.from_pretrained(".");
const model = await AutoModel.from_pretrained(".", {{ dtype: "fp32" }});
const texts = ["a short text", "another text, which is longer"];
const {{ sentence_embedding }} = await model(await tokenizer(texts, {{ padding: true{js_options} }}));
console.log(JSON.stringify({{ dims: sentence_embedding.dims, data: [...sentence_embedding.data] }}));
```

"""
_FASTEMBED = """\
### fastembed

```python
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

TextEmbedding.add_custom_model(
    model="lengthwise",
    pooling=PoolingType.DISABLED,  # the graph pools
    normalization=False,
    sources=ModelSource(hf="none"),
    dim={dim},
    model_file="{native}",
)
model = TextEmbedding("lengthwise", specific_model_path=".")
vectors = list(model.embed(["a short text", "another text, which is longer"]))  # float32[{dim}] each
```

"""
_OPENVINO = """\
### OpenVINO

{why}

```python
import openvino

model = openvino.Core().compile_model("{portable}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
results = model({{"input_ids": [[5, 6, 7], [5, 6, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}})
vectors = results["sentence_embedding"]  # float32[2, {dim}]
```

"""
_OPENVINO_WRONG = (
    f"`{VARIANTS[NATIVE].file}` gives wrong vectors there: OpenVINO ignores `sequence_lens` where shapes are dynamic."
)
_OPENVINO_SAFE = "OpenVINO ignores `sequence_lens` where shapes are dynamic; this graph has none."
_TORCH = """\
### PyTorch

```python
import torch

input_ids = torch.tensor([[5, 6, 7], [5, 6, 0]])
attention_mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
model = torch.jit.load("{script}")
with torch.inference_mode():
    vectors, states = model(input_ids, attention_mask)
```

`{program}` is the same for `torch.export.load`, once `lengthwise.export.graphs.packed_lstm` of Lengthwise was imported.
"""


def validation_files(artifact: Artifact, validation: Validation) -> dict[str, str | bytes | None]:
    """What a validation adds to its artifact: the reports, the picture where matplotlib is installed, the card."""
    from lengthwise.export.validation.plots import draw_heat_map

    picture: bytes | None = None  # which takes an older one away
    with contextlib.suppress(LengthwiseError):
        picture = draw_heat_map(validation)
    return {
        VALIDATION_JSON: validation_to_json(validation),
        VALIDATION_MD: validation_to_markdown(validation, VALIDATION_PNG if picture else None),
        CARD_FILE: model_card(artifact.load_config(), artifact.folder, validation),
        VALIDATION_PNG: picture,
    }


def model_card(config: EncoderConfig, folder: Path, validation: Validation | None = None) -> str:
    """A card for the artifact in `folder`, whose files but the card itself are there."""
    return f"""---
library_name: lengthwise
pipeline_tag: sentence-similarity
tags: [onnx, torchscript, lstm, sentence-embedding]
---
# A packed LSTM text encoder
{_untrained(config)}
{_architecture(config)}

| file | size | what |
| --- | --- | --- |
{_sizes(folder)}

## What was validated

{_verdicts(validation)}

## Use

Inputs `input_ids` and `attention_mask` (int64[batch, sequence]; ones, then zeros: right padding), outputs
`sentence_embedding` (float32[batch, {config.dim}]) and `token_embeddings` (float32[batch, sequence,
{config.state_dim}]). A batch has at least one row (onnxruntime's LSTM kernel does not survive an empty one) and at
least one column, also where no row has a token; such rows get zeros.

{_use(config, folder)}"""


def _untrained(config: EncoderConfig) -> str:
    if config.trained:
        return ""
    return (
        f"\n> **Never trained.** The weights are random (seed {config.seed}): good for measuring speed and for"
        " checking runtimes, not for comparing texts.\n"
    )


def _architecture(config: EncoderConfig) -> str:
    directions = "bidirectional" if config.bidirectional else "unidirectional"
    layers = "1 layer" if config.num_layers == 1 else f"{config.num_layers} layers"
    projection = f", a Linear projection to {config.projection_dim}" if config.projection_dim else ""
    normalised = ", scaled to length 1" if config.normalize else ""
    return (
        f"An embedding of {config.vocab_size:,} tokens (width {config.embedding_dim}), a {directions} LSTM of {layers}"
        f" and\n{config.hidden_size} units a direction, {config.pooling} pooling{projection}{normalised}: one vector"
        f" of\n{config.dim} float32 values a text."
    )


def _sizes(folder: Path) -> str:
    what = {
        "model.safetensors": "the weights, as PyTorch names them",
        **{variant.file: variant.what for variant in VARIANTS.values()},
        **{f"{variant.file}.data": "its weights" for variant in VARIANTS.values()},
        TORCHSCRIPT_FILE: "TorchScript, packed",
        PROGRAM_FILE: "a program of `torch.export`, packed",
    }
    return "\n".join(
        f"| `{name}` | {(folder / name).stat().st_size / 1e6:.2f} MB | {text} |"
        for name, text in what.items()
        if (folder / name).exists()
    )


def _verdicts(validation: Validation | None) -> str:
    if validation is None:
        return "Not validated yet: run `python scripts/validate_export.py` on this folder."
    lines = [*deployment_table(validation), "", *matrix(validation.verdicts), ""]
    return "\n".join([*lines, control_line(validation), "", f"[{VALIDATION_MD}]({VALIDATION_MD}) has the details."])


def _use(config: EncoderConfig, folder: Path) -> str:
    special, cut_at = config.tokenization.add_special_tokens, config.tokenization.max_length
    if not config.tokenization.truncate:
        cut_at = None
    names = {
        "native": VARIANTS[NATIVE].file,
        "portable": VARIANTS[PORTABLE].file,
        "why": _OPENVINO_WRONG if config.bidirectional or config.pooling == "last" else _OPENVINO_SAFE,
        "script": TORCHSCRIPT_FILE,
        "program": PROGRAM_FILE,
        "dim": config.dim,
        "pad_id": config.pad_token_id,
        "pad_token": json.loads((folder / TOKENS_FILE).read_bytes()).get("pad_token", "[PAD]"),
        "options": "" if special else ", add_special_tokens=False",
        "truncation": "" if cut_at is None else f"tokenizer.enable_truncation(max_length={cut_at})\n",
        "js_options": ("" if special else ", add_special_tokens: false")
        + ("" if cut_at is None else f", truncation: true, max_length: {cut_at}"),
    }
    fastembed = _FASTEMBED if special else ""  # it always puts special tokens in
    openvino = _OPENVINO if (folder / VARIANTS[PORTABLE].file).exists() else ""
    return "\n".join([_SNIPPETS, _TRANSFORMERS_JS + fastembed + openvino + _TORCH]).format(**names)
