"""The artifact's README.md: a description, the files, the validation and code for each client."""

from __future__ import annotations

import json
from pathlib import Path

from lengthwise.config import EncoderConfig
from lengthwise.encoder_config import PaddingSettings
from lengthwise.export.artifact.folder import TOKENS_FILE
from lengthwise.export.graphs.variants import (
    DEVICE_VARIANTS,
    EVERY_VARIANT,
    EXECUTORCH,
    LITERT,
    NATIVE,
    PORTABLE,
    PROGRAM_FILES,
    TEXT,
    TORCHSCRIPT_FILES,
    VARIANTS,
)
from lengthwise.util.markdown import markdown_table
from lengthwise.util.text_files import read_text

NOT_VALIDATED = "Not validated yet: run `lengthwise validate` on this folder."
_SNIPPETS = """\
### Python, with Lengthwise

Any number of texts of any lengths; batches are planned by length, and PyTorch need not be installed.

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

`dtype` selects the graph: `fp32`, or `fp16` or `int8` if that file exists. `sentence_embedding` is the vector; a
pipeline would pool the token states itself.

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
    f"`{VARIANTS[NATIVE].file}` gives wrong vectors there: OpenVINO ignores `sequence_lens` if shapes are dynamic."
)
_OPENVINO_SAFE = "OpenVINO ignores `sequence_lens` if shapes are dynamic; this graph has none."
_TORCH = """\
### PyTorch

```python
import torch

input_ids = torch.tensor([[5, 6, 7], [5, 6, 0]])
attention_mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
model = torch.jit.load("{script}")
with torch.inference_mode():
    {outputs} = model(input_ids, attention_mask)
```

`{program}` is the same for `torch.export.load`; import `lengthwise.export.graphs.packed_lstm` of Lengthwise first.
"""
_BY_DEVICE_VARIANT = {
    LITERT: """\

### LiteRT

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter

run = Interpreter(model_path="{file}").get_signature_runner()
results = run(input_ids=np.array([[5, 6, 7], [5, 6, 0]]), attention_mask=np.array([[1, 1, 1], [1, 1, 0]]))
vectors = results["sentence_embedding"]  # float32[2, {dim}]
```
""",
    EXECUTORCH: """\

### ExecuTorch

One row per call, without padding.

```python
import torch
from executorch.runtime import Runtime

encode = Runtime.get().load_program("{file}").load_method("forward").execute
rows = [torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6]])]
vectors = torch.cat([encode([ids, torch.ones_like(ids)])[0] for ids in rows])  # float32[2, {dim}]
```
""",
    TEXT: """\

### onnxruntime-extensions

One text per call, with the tokenizer in the graph.

```python
import numpy as np
import onnxruntime
import onnxruntime_extensions

options = onnxruntime.SessionOptions()
options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
session = onnxruntime.InferenceSession("{file}", options)
vectors = session.run(["sentence_embedding"], {{"text": np.array(["a short text"])}})[0]  # float32[1, {dim}]
```
""",
}


def model_card(config: EncoderConfig, folder: Path, validated: str = NOT_VALIDATED) -> str:
    """The card of the artifact in `folder`, whose other files exist already.

    Args:
        config: the encoder's.
        folder: the artifact's; sizes of files are read there.
        validated: the Markdown text below "What was validated".
    """
    return f"""---
library_name: lengthwise
pipeline_tag: sentence-similarity
tags: [onnx, torchscript, {config.cell}, sentence-embedding]
---
# A packed {config.cell.upper()} text encoder
{_untrained(config)}
{_architecture(config)}

{_file_table(folder)}

## What was validated

{validated}

## Use

Inputs `input_ids` and `attention_mask` (int64[batch, sequence]; ones, then zeros: right padding), outputs
`sentence_embedding` (float32[batch, {config.dim}]) and `token_embeddings` (float32[batch, sequence,
{config.state_dim}]){_label_output(config)}. A batch needs at least one row (onnxruntime's LSTM kernel crashes on an
empty one) and at least one column, even if no row has a token; such rows get zeros.

{_use(config, folder)}"""


def _label_output(config: EncoderConfig) -> str:
    if config.classifier is None:
        return ""
    return (
        f", and last `logits` (float32[batch, {len(config.labels)}]), of which {config.classifier.activation} makes"
        " probabilities of the labels in `config.json`"
    )


def _untrained(config: EncoderConfig) -> str:
    if config.trained:
        return ""
    return (
        f"\n> **Never trained.** The weights are random (seed {config.seed}): suitable for measuring speed"
        " and checking runtimes, not for comparing texts.\n"
    )


def _architecture(config: EncoderConfig) -> str:
    directions = "bidirectional" if config.bidirectional else "unidirectional"
    layers = "1 layer" if config.num_layers == 1 else f"{config.num_layers} layers"
    cell = config.cell.upper()
    gates = "" if config.gate_activation == "sigmoid" else f" with {config.gate_activation} gates"
    dense = "".join(f", a Dense layer of {layer.dim} ({layer.activation})" for layer in config.dense)
    projection = f", a Linear projection to {config.projection_dim}" if config.projection_dim else ""
    residual = ", plus a Linear map of the mean of the token embeddings" if config.static_residual else ""
    normalised = ", scaled to length 1" if config.normalize else ""
    labels = f" A classifier of it gives {len(config.labels)} labels." if config.labels else ""
    padding = "" if config.padding is None else f" {_padding(config.padding)}"
    return (
        f"An embedding of {config.vocab_size:,} tokens (width {config.embedding_dim}), a {directions} {cell} of"
        f" {layers} and\n{config.hidden_size} units per direction{gates}, {config.pooling} pooling"
        f"{dense}{projection}{residual}{normalised}: one vector of\n{config.dim} float32 values per text."
        f"{labels}{padding}"
    )


def _padding(padding: PaddingSettings) -> str:
    end = "end" if padding.side == "post" else "beginning"
    cut = {
        "post": ", and longer ones are cut at their end",
        "pre": ", and longer ones are cut at their beginning",
        None: "",
    }
    return (
        f"It reads padding, as it was trained to: texts of fewer than {padding.to} tokens are filled at their {end}"
        f"{cut[padding.truncate]}; the graphs do both."
    )


def _file_table(folder: Path) -> str:
    descriptions = {
        "model.safetensors": "the weights, as PyTorch names them",
        **{variant.file: variant.what for variant in EVERY_VARIANT.values()},
        **{f"{variant.file}.data": "its weights" for variant in VARIANTS.values()},
        TORCHSCRIPT_FILES[NATIVE]: "TorchScript, packed",
        PROGRAM_FILES[NATIVE]: "a program of `torch.export`, packed",
    }
    rows = [
        (f"`{name}`", f"{(folder / name).stat().st_size / 1e6:.2f} MB", description)
        for name, description in descriptions.items()
        if (folder / name).exists()
    ]
    return markdown_table(("file", "size", "content"), rows)


def _use(config: EncoderConfig, folder: Path) -> str:
    special, cut_at = config.tokenization.add_special_tokens, config.tokenization.max_length
    if not config.tokenization.truncate:
        cut_at = None
    names = {
        "native": VARIANTS[NATIVE].file,
        "portable": VARIANTS[PORTABLE].file,
        "why": _OPENVINO_WRONG if config.lengths_matter else _OPENVINO_SAFE,
        "script": TORCHSCRIPT_FILES[NATIVE],
        "program": PROGRAM_FILES[NATIVE],
        "dim": config.dim,
        "pad_id": config.pad_token_id,
        "pad_token": json.loads(read_text(folder / TOKENS_FILE)).get("pad_token", "[PAD]"),
        "outputs": "vectors, states, logits" if config.labels else "vectors, states",
        "options": "" if special else ", add_special_tokens=False",
        "truncation": "" if cut_at is None else f"tokenizer.enable_truncation(max_length={cut_at})\n",
        "js_options": ("" if special else ", add_special_tokens: false")
        + ("" if cut_at is None else f", truncation: true, max_length: {cut_at}"),
    }
    fastembed = _FASTEMBED if special else ""  # it always puts special tokens in
    openvino = _OPENVINO if (folder / VARIANTS[PORTABLE].file).exists() else ""
    devices = [
        snippet.format(file=DEVICE_VARIANTS[variant].file, dim=config.dim)
        for variant, snippet in _BY_DEVICE_VARIANT.items()
        if (folder / DEVICE_VARIANTS[variant].file).exists()
    ]
    everywhere = "\n".join([_SNIPPETS, _TRANSFORMERS_JS + fastembed + openvino + _TORCH]).format(**names)
    return everywhere + "".join(devices)
