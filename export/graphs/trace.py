"""A PackedEncoder with the interface of sentence-embedding clients, traced to ONNX, `.pt2` and TorchScript.

    input_ids       int64[batch, sequence]
    attention_mask  int64[batch, sequence]   ones, then zeros: right padding
    -> sentence_embedding  float32[batch, dim]
    -> token_embeddings    float32[batch, sequence, directions * hidden], zero where the mask is zero
    -> logits              float32[batch, labels], of the vector above; of an encoder with labels only

Batch and sequence are at least 1. A row whose mask is all zeros gets a vector of zeros. The LSTM reads such a row as
one token long, because PyTorch refuses a length of zero and runtimes differ on it; the result is then cleared.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from lengthwise.encoder.model import PackedEncoder, TokenStates
from lengthwise.encoder.padding import read_ids
from lengthwise.errors import ArtifactError
from lengthwise.export.graphs.packed_lstm import OnnxOrderedRnn, to_onnx_gru, to_onnx_lstm
from lengthwise.export.graphs.portable_lstm import PortableRnn, RunLayer
from lengthwise.export.graphs.variants import LOGITS
from lengthwise.util.compat import copy_torchscript, copy_without

INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("sentence_embedding", "token_embeddings")
OPSET = 18  # onnxruntime's CUDA kernel for LSTM is registered for opsets 14 to 21
IR_VERSION = 8  # that of opset 18; onnx's default is newer than many runtimes read
_DYNAMIC = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")},) * 2
PROTOBUF_LIMIT = 2**31 - 2**20  # bytes; weights of a larger graph are written to a file beside it


class ClientEncoder(nn.Module):
    """The interface above on PyTorch's packed LSTM or GRU."""

    def __init__(self, encoder: PackedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """int64[batch, sequence] twice to the outputs above."""
        mask = attention_mask > 0
        lengths = attention_mask.sum(dim=1)
        at_least_one = torch.where(lengths > 0, lengths, 1)
        vectors, states = self._encode(input_ids, at_least_one, mask)
        vectors = torch.where((lengths > 0)[:, None], vectors, 0.0)
        classifier = self.encoder.classifier
        return (vectors, states) if classifier is None else (vectors, states, classifier(vectors))

    def _encode(self, input_ids: Tensor, lengths: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors and token states, of rows of at least one token."""
        if self.encoder.config.padding is None:
            tokens = self.token_states(input_ids, lengths).clear_padding(mask)
            return self.encoder.head(tokens, lengths, mask), tokens.states
        read = read_ids(input_ids, lengths, self.encoder.config)
        is_read = torch.arange(read.input_ids.shape[1], device=mask.device) < read.lengths[:, None]
        tokens = self.token_states(read.input_ids, read.lengths).clear_padding(is_read)
        states = torch.where(mask[:, :, None], read.own_states(tokens.states, input_ids.shape[1]), 0.0)
        return self.encoder.head(tokens, read.lengths, is_read), states

    def token_states(self, input_ids: Tensor, lengths: Tensor) -> TokenStates:
        """As `PackedEncoder.token_states`, except that the padding may hold anything."""
        return self.encoder.token_states(input_ids, lengths)


class _TimeFirstEncoder(ClientEncoder):
    """The same with other recurrent layers, which take embeddings time first, as ONNX requires."""

    def __init__(self, encoder: PackedEncoder, rnn: nn.Module) -> None:
        cell = encoder.config.cell
        super().__init__(copy_without(encoder, cell))
        self.add_module(cell, rnn)

    def token_states(self, input_ids: Tensor, lengths: Tensor) -> TokenStates:
        """As `ClientEncoder.token_states`."""
        embeddings = self.encoder.embedding(input_ids.t())  # ids are cheap to transpose
        states, last = self.get_submodule(self.encoder.config.cell)(embeddings, lengths)
        is_read = self.encoder.config.static_residual
        return TokenStates(states.transpose(0, 1), last, embeddings.transpose(0, 1) if is_read else None)


class OnnxClientEncoder(_TimeFirstEncoder):
    """The same with `packed_lstm` or `packed_gru` operators, which the ONNX exporter can trace."""

    def __init__(self, encoder: PackedEncoder) -> None:
        super().__init__(encoder, OnnxOrderedRnn(encoder.rnn, encoder.config.gate_activation))


class PortableClientEncoder(_TimeFirstEncoder):
    """The same without packing, with PyTorch's own operators only."""

    def __init__(self, encoder: PackedEncoder, run: RunLayer) -> None:
        super().__init__(encoder, PortableRnn(encoder.rnn, run, encoder.config.gate_activation))


def example_inputs(vocab_size: int) -> tuple[Tensor, Tensor]:
    """Three rows of lengths 5, 2 and 3 in seven columns: int64[3, 7] twice."""
    input_ids = torch.arange(21).reshape(3, 7) % vocab_size
    return input_ids, (torch.arange(7) < torch.tensor([[5], [2], [3]])).long()


def trace_to_program(
    model: ClientEncoder, *, rows: int = 3, dynamic: tuple[dict[int, Any], ...] = _DYNAMIC
) -> torch.export.ExportedProgram:
    """`torch.export`'s program of a model, without stack traces.

    Args:
        model: the model.
        rows: of the example, up to 3.
        dynamic: the dynamic axes of both inputs, which are batch and sequence.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        inputs = tuple(each[:rows] for each in example_inputs(model.encoder.config.vocab_size))
        torch._dynamo.reset()  # a scan would be compiled as for the encoder before, whose padding has another length
        program = torch.export.export(model.eval(), inputs, dynamic_shapes=dynamic)
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    program.example_inputs = None
    return program


def save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a `.pt2` file."""
    torch.export.save(program, path)


def trace_to_onnx(encoder: PackedEncoder, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The native graph of an encoder, see `program_to_onnx`."""
    return program_to_onnx(trace_to_program(OnnxClientEncoder(encoder)), metadata)


def program_to_onnx(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The native graph: one ONNX LSTM or GRU per layer, with `sequence_lens`; batch and sequence dynamic.

    Args:
        program: that of an `OnnxClientEncoder`.
        metadata: properties of the model.

    Raises:
        ArtifactError: the exporter refuses the encoder.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad(), _ErrorsOnly("torch.onnx", "onnxscript", "onnx_ir"):
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=(*OUTPUTS, LOGITS)[: len(program.graph_signature.user_outputs)],
                dynamic_shapes=_DYNAMIC,  # names the dimensions
                custom_translation_table={
                    torch.ops.lengthwise.packed_lstm.default: to_onnx_lstm,
                    torch.ops.lengthwise.packed_gru.default: to_onnx_gru,
                },
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ArtifactError(
            f"the ONNX exporter of PyTorch {torch.__version__} refuses the encoder ({error})"
        ) from error
    if exported is None:
        raise ArtifactError(f"the ONNX exporter of PyTorch {torch.__version__} returned nothing")
    return _finalize(exported.model_proto, metadata)


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write and check a model; above protobuf's 2 GB its weights go to `<name>.data` beside it."""
    large = sum(len(weight.raw_data) for weight in model.graph.initializer) > PROTOBUF_LIMIT
    location = path.name + ".data" if large else None
    onnx.save(model, path, save_as_external_data=large, location=location)
    onnx.checker.check_model(str(path), full_check=True)


def trace_to_torchscript(model: ClientEncoder) -> torch.jit.ScriptModule:
    """A model as TorchScript, for any batch, sequence and lengths."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and the tracer warns about what validation checks
        inputs = example_inputs(model.encoder.config.vocab_size)
        return torch.jit.trace(model.eval(), inputs, check_trace=False)


def save_torchscript(script: torch.jit.ScriptModule, path: Path) -> None:
    """Write a file without the debug records, which hold source paths of the tracing machine."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / path.name
        script.save(str(whole))
        copy_torchscript(whole, path)


def _finalize(model: onnx.ModelProto, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """Set versions and metadata, and remove stack traces, which hold paths of the tracing machine."""
    model.ir_version = IR_VERSION
    model.graph.name = "lengthwise"
    del model.metadata_props[:], model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    for initializer in model.graph.initializer:
        del initializer.metadata_props[:]
    onnx.helper.set_model_props(model, dict(metadata))
    return model


class _ErrorsOnly:
    """Raise the level of some loggers to ERROR: the exporter logs what it skips, such as torchvision."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
