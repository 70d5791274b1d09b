"""Opens whatever a user names: an ONNX file, a folder, a server's address, a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lengthwise.errors import AuditError, ConfigError
from lengthwise.export.audit.answers import Precision
from lengthwise.export.audit.targets.base import Target, TextTarget, Unanswered
from lengthwise.export.audit.targets.server import TIMEOUT_SECONDS, is_url
from lengthwise.util.model_paths import hub_hint, model_kind

Engine = Literal["onnx", "torch"]
_WORDS, _WORDS_QUICK = 160, 48


@dataclass(frozen=True)
class OpenOptions:
    """How a model is to be opened.

    Attributes:
        output: the output of a graph.
        pooling: of its token states.
        engine: what runs a folder that has both a graph and PyTorch weights; the graph by default.
        precision: in which it computes, where that cannot be told.
        served_model: the name that a server wants.
        timeout: seconds for each request to a server.
    """

    output: str | None = None
    pooling: str | None = None
    engine: Engine | None = None
    precision: Precision | None = None
    served_model: str | None = None
    timeout: float = TIMEOUT_SECONDS


def make_options(**options: Any) -> OpenOptions:
    """Options by their names.

    Raises:
        ConfigError: there is no option of a name.
    """
    known = [field.name for field in fields(OpenOptions)]
    for name in options:
        if name not in known:
            raise ConfigError(f"{name!r}: there is no such option of an audit; there are {', '.join(known)}")
    return OpenOptions(**options)


def open_target(
    model: str | Path | Callable[[list[str]], Any], options: OpenOptions = OpenOptions(), *, quick: bool = False
) -> Target:
    """Open a model.

    Raises:
        AuditError: there is none, or it cannot be audited.
        LengthwiseError: a library that it needs is not installed, or a file of it is damaged.
    """
    target = _open(model, options)
    if isinstance(target, TextTarget):
        try:
            target.keep_known_words(_WORDS_QUICK if quick else _WORDS)
        except Unanswered as error:
            raise AuditError(f"{target.name}: gives no vectors for a batch of single words: {error}") from error
    return target


def _open(model: str | Path | Callable[[list[str]], Any], options: OpenOptions) -> Target:
    if callable(model):
        from lengthwise.export.audit.targets.function import FunctionTarget

        return FunctionTarget(model, options.precision)
    if is_url(str(model)):
        from lengthwise.export.audit.targets.server import ServerTarget

        return ServerTarget(
            str(model), served_model=options.served_model, timeout=options.timeout, precision=options.precision
        )
    path = Path(model).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".onnx":
            raise AuditError(f"{path}: not an ONNX graph by its name; give a .onnx file, a model's folder, or a URL")
        return _open_graph(path, str(model), options)
    if not path.is_dir():
        raise AuditError(
            f"{path}: there is no such file or folder; give an ONNX file, a model's folder, or the URL of a"
            f" server{hub_hint(path)}"
        )
    return _open_folder(path, str(model), options)


def _open_folder(folder: Path, name: str, options: OpenOptions) -> Target:
    from lengthwise.export.audit.targets.onnx_graph import find_graph

    graph = None if options.engine == "torch" else find_graph(folder)
    if graph is not None:
        return _open_graph(graph, name, options)
    if model_kind(folder) == "checkpoint":
        raise AuditError(f"{folder}: a checkpoint of Lengthwise has no graph; audit what lengthwise export makes")
    if options.engine == "onnx" or not (folder / "modules.json").is_file():
        raise AuditError(
            f"{folder}: holds no ONNX graph{'' if options.engine == 'onnx' else ' and no modules.json'}; give the"
            " folder of an exported model, or one of sentence-transformers"
        )
    if options.output is not None or options.pooling is not None:
        raise ConfigError("--output and --pooling are for ONNX graphs; a folder of sentence-transformers has its own")
    from lengthwise.export.audit.targets.sentence_transformer import open_sentence_transformer

    return open_sentence_transformer(folder, name, options.precision)


def _open_graph(path: Path, name: str, options: OpenOptions) -> Target:
    from lengthwise.export.audit.targets.onnx_graph import OnnxTarget

    return OnnxTarget(path, name, output=options.output, pooling=options.pooling, precision=options.precision)
