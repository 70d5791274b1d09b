"""An ONNX graph of anybody's, with whatever files lie beside it.

Inputs are told by their names and types, the output by its name and rank: a vector for each row is taken as it is, and
states of all tokens are pooled as the files say, or by `--pooling`. A graph with other inputs, such as pictures, a
recurrent state or the cache of a decoder, is refused with their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from lengthwise.errors import AuditError
from lengthwise.export.audit.answers import Precision
from lengthwise.export.audit.claims import Claims, read_claims
from lengthwise.export.audit.graph import IDS, MASK, GraphView, external_files, load_model
from lengthwise.export.audit.targets.base import IdTarget, Unanswered, check_vectors
from lengthwise.export.audit.units import id_units, token_units
from lengthwise.export.runtimes.base import NotRunnable
from lengthwise.export.runtimes.onnxruntime import import_onnxruntime
from lengthwise.formats.embedding_folder import check_pooling, pool_states, scale_to_length_1
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, load_tokenizer
from lengthwise.util.model_paths import LFS_REMEDY, is_lfs_pointer
from lengthwise.util.system import cpu_count, free_memory

VECTORS = ("sentence_embedding", "text_embeds", "embeddings", "embedding", "pooler_output")
STATES = ("token_embeddings", "last_hidden_state", "last_hidden_states", "hidden_states")
_INPUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "input_ids": ("input_ids", "ids", "token_ids", "tokens", "input"),
        "attention_mask": ("attention_mask", "mask", "input_mask"),
        "token_type_ids": ("token_type_ids", "segment_ids", "type_ids"),
        "position_ids": ("position_ids",),
    }
)
_INTEGERS: Mapping[str, type[np.integer[Any]]] = MappingProxyType(
    {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
)
_NUMBERS = (*_INTEGERS, "tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bool)")
_DTYPES: Mapping[str, type[np.generic]] = MappingProxyType(
    {**_INTEGERS, "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    | {"tensor(bool)": np.bool_}
)
_GRAPHS = ("onnx/model.onnx", "model.onnx")
_SILENT = 4  # onnxruntime's severity of fatal errors; others are raised too
_FREE_SHARE = 0.8  # of the free memory, that weights may take


class OnnxTarget(IdTarget):
    """An ONNX graph in onnxruntime, on the CPU.

    Attributes:
        path: the file.
        folder: of its tokenizer and settings.
        output: the name of the output that is taken.
        pooling: how that output is pooled; None where it is a vector for each row.
        fixed: rows and columns that every batch has to have; None where they are free.
        view: the graph.
    """

    kind = "ONNX graph, onnxruntime on the CPU"
    concurrent = True

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        *,
        output: str | None = None,
        pooling: str | None = None,
        precision: Precision | None = None,
        threads: int = 0,
        folder: Path | None = None,
    ) -> None:
        """Open a graph.

        Args:
            folder: of its tokenizer and settings; found by the graph's place where it is left out.

        Raises:
            AuditError: it cannot be opened, or is no embedding model.
            CheckpointError, TokenizerError: a file beside it cannot be read.
        """
        super().__init__(name or str(path))
        self.path, self.folder = path, folder or settings_folder(path)
        self._options: dict[str, Any] = {"output": output, "pooling": pooling, "precision": precision}
        self._options["folder"] = self.folder
        _check_file(path)
        model = load_model(path)
        _check_memory(path, model)
        self._session = _open_session(path, threads)
        self._inputs = _find_inputs(path, self._session)
        self.output = output or _find_output(path, self._session)
        self._check_output(output)
        roles = {name: {"input_ids": IDS, "attention_mask": MASK}.get(role, "") for role, name in self._inputs.items()}
        self.claims = read_claims(self.folder) if self.folder else Claims()
        known = {name: role for name, role in roles.items() if role}
        self.view = GraphView(model, known, self.claims.side, self.output)
        self.precision = precision or self.view.precision
        self.tokenizer = (
            load_tokenizer(self.folder) if self.folder and (self.folder / TOKENIZER_FILE).is_file() else None
        )
        table = self.view.embedding
        self.embedding_rows = None if table is None else int(table.dims[0])
        self.units = id_units(self.embedding_rows or 100) if self.tokenizer is None else token_units(self.tokenizer)
        self.pooling: tuple[str, ...] | None = None
        self.fixed = _fixed_shape(self._session, self._inputs["input_ids"])
        self._modes = check_pooling((pooling,) if pooling else self.claims.settings.pooling or ("mean",), str(path))
        self._probe()

    @property
    def longest(self) -> int | None:
        """As `Target.longest`, and no more than a fixed number of columns takes."""
        claimed, columns = super().longest, self.fixed[1]
        if columns is None:
            return claimed
        return max(1, min(columns - self.special_tokens, claimed or columns))

    @property
    def states_output(self) -> str | None:
        """The output with the states of all tokens; None where there is none."""
        return next((name for name in STATES if name in self._outputs()), None)

    @property
    def has_mask(self) -> bool:
        """Whether the graph is told where the padding is."""
        return "attention_mask" in self._inputs

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `IdTarget.run`; a batch of fixed shape is filled up with padding, and with copies of its last row."""
        rows = len(input_ids)
        input_ids, attention_mask = self._filled(input_ids, attention_mask)
        found = self.fetch(self.output, input_ids, attention_mask)
        if found.ndim == 3 and found.shape[:2] == input_ids.shape:
            found = pool_states(found.astype(np.float32), attention_mask, self._modes)
            if self.claims.settings.normalize:
                found = scale_to_length_1(found)
        return check_vectors(found, len(input_ids))[:rows]

    def pooled(self, output: str, input_ids: NDArray[np.int64], mode: str) -> NDArray[np.float32]:
        """One text's token states, pooled: float32[1, width].

        Args:
            output: the output with the states.
            input_ids: int64[1, sequence].

        Raises:
            Unanswered: onnxruntime raised, or there is not one state for each token.
        """
        input_ids, mask = self._filled(input_ids, np.ones_like(input_ids))
        states = self.fetch(output, input_ids, mask)
        if states.ndim != 3 or states.shape[:2] != input_ids.shape:
            raise Unanswered(f"{output} is not one state for each token, but of shape {list(states.shape)}")
        return pool_states(states.astype(np.float32), mask, (mode,))[:1]

    def _filled(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        for axis, (fixed, what) in enumerate(zip(self.fixed, ("rows", "columns"), strict=True)):
            given = input_ids.shape[axis]
            if fixed is None or given == fixed:
                continue
            if given > fixed:
                noun = what.removesuffix("s") if fixed == 1 else what
                raise Unanswered(f"the graph takes exactly {fixed} {noun}, and {given} were needed")
            more = (0, fixed - given)
            if axis == 0:
                input_ids, attention_mask = (np.pad(a, (more, (0, 0)), "edge") for a in (input_ids, attention_mask))
            else:
                side = more if self.claims.side == "right" else more[::-1]
                input_ids = np.pad(input_ids, ((0, 0), side), constant_values=self.claims.pad_id)
                attention_mask = np.pad(attention_mask, ((0, 0), side))
        return input_ids, attention_mask

    def fetch(self, output: str, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> NDArray[Any]:
        """One output of the graph as it is.

        Raises:
            Unanswered: onnxruntime raised.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": np.zeros_like(input_ids),
            "position_ids": np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0),
        }
        types = {each.name: _DTYPES[each.type] for each in self._session.get_inputs()}
        feeds = {name: given[role].astype(types[name]) for role, name in self._inputs.items()}
        try:
            (found,) = self._session.run([output], feeds, _quiet())
        except Exception as error:  # onnxruntime raises its own types, one per status code
            raise Unanswered(f"onnxruntime raised: {_line(error)}") from error
        return np.asarray(found)

    def embeddings_differ(self, first: int, second: int) -> bool:
        """As `IdTarget.embeddings_differ`; weights in another file are not read."""
        table = self.view.embedding
        if table is None or table.data_location == TensorProto.EXTERNAL or max(first, second) >= table.dims[0]:
            return False
        rows = numpy_helper.to_array(table)
        return bool((rows[first] != rows[second]).any())

    def with_one_thread(self) -> OnnxTarget:
        """As `Target.with_one_thread`."""
        return self.reopened(self.path, threads=2 if cpu_count() == 1 else 1)  # the other way round on one core

    def reopened(self, path: Path, threads: int = 0) -> OnnxTarget:
        """Another graph, opened as this one is, with the same files beside it."""
        return OnnxTarget(path, self.name, **self._options, threads=threads)

    def input_name(self, role: str) -> str | None:
        """The name of the input that takes `input_ids`, `attention_mask` and so on; None if none does."""
        return self._inputs.get(role)

    def environment(self) -> dict[str, str]:
        """As `Target.environment`."""
        within = self.folder is not None and self.path.resolve().is_relative_to(self.folder)
        graph = self.path.resolve().relative_to(self.folder) if within and self.folder else Path(self.path.name)
        return {"onnxruntime": import_onnxruntime().__version__, "graph": graph.as_posix(), "output": self.output}

    def _outputs(self) -> list[str]:
        return [each.name for each in self._session.get_outputs()]

    def _check_output(self, chosen: str | None) -> None:
        if chosen is not None and chosen not in self._outputs():
            raise AuditError(f"{self.path}: has no output {chosen!r}; its outputs are {', '.join(self._outputs())}")

    def _probe(self) -> None:
        """Run one text, to see that there is a vector for it.

        Raises:
            AuditError: there is none.
        """
        ids = [*self.affixes[0], *(self.units.ids or ())[:3], *self.affixes[1]]
        input_ids = np.array([ids], np.int64)
        try:
            given = self._filled(input_ids, np.ones_like(input_ids))
            found = self.fetch(self.output, *given)
            self.pooling = self._modes if found.ndim == 3 else None
            if found.ndim == 3 and found.shape[:2] != given[0].shape:
                raise Unanswered(f"its output {self.output} is of shape {list(found.shape)} for {len(ids)} tokens")
            self.run(input_ids, np.ones_like(input_ids))
        except Unanswered as error:
            rows = self.embedding_rows
            if self.folder is not None and self.tokenizer is not None and rows is not None and max(ids) >= rows:
                raise AuditError(
                    f"{self.folder / TOKENIZER_FILE} belongs to another model than {self.path}: it gives the id"
                    f" {max(ids):,}, and the graph's embedding has {rows:,} rows; put the graph into a folder with its"
                    " own tokenizer.json, or without one"
                ) from error
            raise AuditError(
                f"{self.path}: not an embedding model, as far as can be told: for one text of {len(ids)} tokens,"
                f" {error}; name the output with --output"
            ) from error


def settings_folder(path: Path) -> Path | None:
    """The folder of a graph's tokenizer and settings: its own, or the one above `onnx`; None if there is neither."""
    own = path.resolve().parent
    for folder in (own, own.parent) if own.name.startswith("onnx") else (own,):
        if (folder / TOKENIZER_FILE).is_file() or (folder / "config.json").is_file():
            return folder
    return None


def find_graph(folder: Path) -> Path | None:
    """The graph of a folder: where it is usually put, else the only one; None if there is none.

    Raises:
        AuditError: there are several, and none at the usual place.
    """
    for name in _GRAPHS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.rglob("*.onnx"))
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:8])
        raise AuditError(f"{folder}: holds {len(found)} graphs ({names}); give the file that is to be audited")
    return found[0] if found else None


def _check_file(path: Path) -> None:
    if is_lfs_pointer(path):
        raise AuditError(f"{path}: {LFS_REMEDY}")
    if path.stat().st_size == 0:
        raise AuditError(f"{path}: the file is empty; get it again")


def _check_memory(path: Path, model: Any) -> None:
    """Refuse weights that are missing, or that do not fit."""
    sizes = external_files(model)
    missing = [name for name in sizes if not (path.parent / name).is_file()]
    if missing:
        raise AuditError(f"{path}: its weights are in {missing[0]}, which is not there; put it beside the graph")
    for name, size in sizes.items():
        found = (path.parent / name).stat().st_size
        if found < size:
            raise AuditError(
                f"{path}: its weights in {name} take {size:,} bytes, and the file has {found:,}; get it again"
            )
    total, free = path.stat().st_size + sum(sizes.values()), free_memory()
    if free is not None and total > _FREE_SHARE * free:
        raise AuditError(
            f"{path}: its weights take {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free; audit it on a"
            " machine with more memory"
        )


def _open_session(path: Path, threads: int) -> Any:
    try:
        library = import_onnxruntime()
    except NotRunnable as error:
        raise AuditError(f"{path}: {error}") from error
    options = library.SessionOptions()
    options.intra_op_num_threads = threads or cpu_count()
    options.log_severity_level = _SILENT
    try:
        return library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise AuditError(f"{path}: onnxruntime cannot open the graph ({_line(error)})") from error


def _quiet() -> Any:
    options = import_onnxruntime().RunOptions()
    options.log_severity_level = _SILENT
    return options


def _find_inputs(path: Path, session: Any) -> dict[str, str]:
    """The names of the graph's inputs by what they are.

    Raises:
        AuditError: it has other inputs, or none that takes ids.
    """
    inputs = session.get_inputs()
    found: dict[str, str] = {}
    for role, names in _INPUTS.items():
        match = next((each.name for name in names for each in inputs if each.name == name), None)
        if match is not None:
            found[role] = match
    integers = [each.name for each in inputs if each.type in _INTEGERS and len(each.shape) in (0, 2)]
    if "input_ids" not in found and len(integers) == 1:
        found["input_ids"] = integers[0]
    described = ", ".join(f"{each.name} ({each.type[7:-1]}{list(each.shape)})" for each in inputs)
    others = [each.name for each in inputs if each.name not in found.values()]
    wrong = [each.name for each in inputs if each.name == found.get("input_ids") and each.name not in integers]
    if others or wrong or "input_ids" not in found or any(each.type not in _NUMBERS for each in inputs):
        reason = f"cannot be fed from texts: {', '.join(others or wrong)}" if others or wrong else "takes no ids"
        raise AuditError(
            f"{path}: {reason}; its inputs are {described}. An embedding model of texts takes input_ids and perhaps"
            " attention_mask, token_type_ids and position_ids, int64[batch, sequence]; a model with another"
            " interface can be audited as a function of texts, see lengthwise.audit"
        )
    return found


def _fixed_shape(session: Any, name: str) -> tuple[int | None, int | None]:
    """The numbers of rows and columns that an input has to have."""
    (shape,) = [each.shape for each in session.get_inputs() if each.name == name]
    rows, columns = (size if isinstance(size, int) else None for size in shape or ("batch", "sequence"))
    return rows, columns


def _find_output(path: Path, session: Any) -> str:
    """The output to take: a vector by its name, then states by theirs, then the only output of numbers."""
    outputs = session.get_outputs()
    names = [each.name for each in outputs]
    for name in (*VECTORS[:-1], *STATES, *VECTORS[-1:]):
        if name in names:
            return name
    floats = [each.name for each in outputs if each.type in _NUMBERS and len(each.shape) in (2, 3)]
    plain = [name for name in floats if "logit" not in name and "past" not in name and "present" not in name]
    if len(plain) == 1:
        return plain[0]
    raise AuditError(
        f"{path}: not an embedding model, as far as can be told: its outputs are {', '.join(names)}; if one of them"
        " holds vectors or token states, name it with --output"
    )


def _line(error: Exception) -> str:
    """What onnxruntime says, without its source file and the condition there."""
    words = " ".join(str(error).split())
    words = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", words).rpartition("Status Message: ")[2]
    return re.sub(r"^/onnxruntime_src/.* was false\. ", "", words)[:240]
