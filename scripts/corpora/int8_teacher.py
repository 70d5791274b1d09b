"""The teacher of `make distil` as an int8 graph for onnxruntime, which is the fastest way that people run it."""

from __future__ import annotations

import shutil
from pathlib import Path

_FILES = ("tokenizer.json", "sentence_bert_config.json", "1_Pooling/config.json")


def write_int8_graph(source: Path, target: Path) -> None:
    """Export a BERT model of sentence-transformers with PyTorch's exporter, and quantize it with onnxruntime's tool.

    Weights are int8 by output channel, activations are quantized as they come (`quantize_dynamic`).

    Args:
        source: the model's folder.
        target: gets `onnx/model.onnx`, the tokenizer and the pooling.
    """
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    from lengthwise.util.files import replace_folder

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = AutoModel.from_pretrained(source, attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            return states

    ids = torch.ones(2, 9, dtype=torch.long)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=512)}
    with replace_folder(target) as part:
        (part / "onnx").mkdir(parents=True)
        whole = part / "onnx/float.onnx"
        torch.onnx.export(
            States().eval(),
            (ids, torch.ones_like(ids)),
            whole,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes=(shape, shape),
            opset_version=18,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        quantize_dynamic(whole, part / "onnx/model.onnx", per_channel=True, weight_type=QuantType.QInt8)
        whole.unlink()
        for name in _FILES:
            (part / name).parent.mkdir(exist_ok=True)
            shutil.copy(source / name, part / name)
