"""What the commands do, as functions: encode a dataset, search its vectors, train an encoder, validate and audit.

Each builds the `RunConfig` that a YAML file would hold and runs what the command line runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lengthwise.api import Encoder
from lengthwise.config import BadRows, RunConfig, load_config, parse_settings
from lengthwise.errors import ConfigError, RowError

if TYPE_CHECKING:
    import datasets

    from lengthwise.data.dataset import Source
    from lengthwise.data.input import Input
    from lengthwise.export.audit.answers import Audit
    from lengthwise.export.validation.verdict import Validation
    from lengthwise.run.search import Metric, VectorFolder
    from lengthwise.run.stats import EncodeReport
    from lengthwise.run.vector_index import IndexRecord
    from lengthwise.training.report import TrainReport


def encode_dataset(
    dataset: str | Path | datasets.Dataset | datasets.IterableDataset,
    model: str | Path | Encoder,
    output: str | Path,
    *,
    text_column: str = "text",
    keep_columns: Sequence[str] = (),
    split: str = "train",
    vector_dtype: Literal["float32", "float16"] = "float32",
    bad_rows: BadRows = "error",
    fingerprint: str | None = None,
    fresh: bool = False,
    show_progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> EncodeReport:
    """Encode a dataset into a folder of parquet shards. An interrupted call goes on where it was when repeated.

    >>> from lengthwise import encode_dataset
    >>> report = encode_dataset("texts.txt", "model", "vectors", show_progress=False)
    >>> report.totals.rows
    7

    Args:
        dataset: a file, a glob, a folder, a name on the hub, or a dataset in memory.
        model: a checkpoint or an artifact, on whichever device there is; or an `Encoder`.
        output: the folder of vectors, or its URL.
        text_column: the column of texts.
        keep_columns: columns that are copied beside the vectors.
        split: which split of a dataset that is named.
        vector_dtype: how vectors are stored.
        bad_rows: what becomes of a row that cannot be encoded, see `config.EncodeSettings`.
        fingerprint: identifies the rows of a dataset in memory; the same dataset has to have the same one for a call
            to go on. By default that of the datasets library, which an IterableDataset does not have.
        fresh: remove the vectors that are there, whichever run they are of.
        show_progress: show a bar.
        settings: further settings of a run by their dotted names, such as `{"dataset.shard_rows": 10_000}`.

    Raises:
        ConfigError: an unknown setting or a value that is refused; all of them are in the message.
        DatasetError, TextError: the input cannot be read, or a row cannot be encoded.
        StoreError: the folder holds other vectors, or cannot be written.
    """
    from lengthwise.steps import encode_input, encode_source

    encoder = model if isinstance(model, Encoder) else Encoder.load(model)
    given = {
        "dataset.path": str(dataset) if isinstance(dataset, str | Path) else "(in memory)",
        "dataset.split": split,
        "dataset.text_column": text_column,
        "dataset.keep_columns": list(keep_columns),
        "encode.output": str(output),
        "encode.vector_dtype": vector_dtype,
        "encode.bad_rows": bad_rows,
    }
    config = _run_config(encoder, {**given, **(settings or {})})
    if config.encode.append:
        found = _find_input(dataset, config, fingerprint)
        return encode_input(config, found, encoder._engine, encoder.tokenizer, fresh=fresh, show_progress=show_progress)
    source = _open_source(dataset, config, fingerprint)
    return encode_source(config, source, encoder._engine, encoder.tokenizer, fresh=fresh, show_progress=show_progress)


def _run_config(encoder: Encoder, settings: Mapping[str, Any]) -> RunConfig:
    """The run of an open encoder with these settings, by their dotted names.

    Raises:
        ConfigError: a setting is unknown or refused, or is another precision than the encoder's.
    """
    data: dict[str, Any] = {
        "model": {"path": str(encoder._folder or "(in memory)")},
        "batching": encoder._batching.model_dump(),
        "encode": dict(encoder._settings),
    }
    for key, value in settings.items():
        section, _, name = key.partition(".")
        data[section] = {**data.get(section, {}), name: value} if name else value
    config = parse_settings(RunConfig, data, "encode_dataset")
    if config.encode.engine == "torch" and config.encode.precision != encoder._settings.get("precision"):
        raise ConfigError(
            f"settings['encode.precision'] is {config.encode.precision!r}, but the model was opened in"
            f" {encoder._settings.get('precision')}; pass Encoder.load(path, precision=...) as the model"
        )
    return config


def _open_source(
    dataset: str | Path | datasets.Dataset | datasets.IterableDataset, config: RunConfig, fingerprint: str | None
) -> Source:
    """The input of a run: what `dataset.path` names, or a dataset in memory."""
    from lengthwise.data.dataset import Source, open_run_dataset

    if isinstance(dataset, str | Path):
        return open_run_dataset(config, fingerprint)
    return Source(dataset, fingerprint or getattr(dataset, "_fingerprint", None) or uuid.uuid4().hex, config.dataset)


def _find_input(
    dataset: str | Path | datasets.Dataset | datasets.IterableDataset, config: RunConfig, fingerprint: str | None
) -> Input:
    """The input of a run that appends; what is in memory is opened each time it is read."""
    from lengthwise.data.dataset import find_run_dataset
    from lengthwise.data.input import Input

    if isinstance(dataset, str | Path) and fingerprint is None:
        return find_run_dataset(config)
    return Input(config.dataset, lambda _: _open_source(dataset, config, fingerprint))


def search(
    vectors: str | Path,
    queries: str | Sequence[str],
    *,
    model: str | Path | Encoder | None = None,
    top: int = 10,
    metric: Metric = "cosine",
    where: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    index: bool = False,
    show_progress: bool = False,
) -> Any:
    """The rows of a folder of vectors that are most similar to a text, found by comparing all of them.

    >>> from lengthwise import encode_dataset, search
    >>> report = encode_dataset("texts.txt", "model", "vectors", keep_columns=["text"], show_progress=False)
    >>> search("vectors", "the cat sat on the mat", model="model", top=1)[0].columns["text"]
    'the cat sat on the mat'

    Args:
        vectors: the folder that `encode_dataset` wrote, or its URL.
        queries: one text, or several. They are tokenized as the rows were.
        model: the encoder that made the vectors; by default the folder's `run.yaml` names it.
        top: how many rows per query; fewer where fewer satisfy the conditions.
        metric: `cosine` of the angle, or `dot` product.
        where: conditions on kept columns, all of which a row has to satisfy, such as `year>=2020`.
        columns: kept columns whose values are wanted; by default all.
        index: use the approximate index beside the vectors, see `index_vectors`, which is built where there is none.
        show_progress: show a bar while the index is built.

    Returns:
        `Hit`s with `score`, `row` and `columns`, the most similar first: a list for one text, a list of lists for
        several.

    Raises:
        StoreError: there is no complete folder of vectors, or a shard cannot be read; or the index is of other vectors.
        ConfigError: the vectors are another model's, or an unknown column, or a value that does not fit one; or there
            can be no index.
        CheckpointError, ArtifactError: the model cannot be opened.
        TextError: a query cannot be encoded, or has no tokens.
    """
    from lengthwise.run.search import VectorFolder

    folder = VectorFolder.open(vectors)
    encoder = model if isinstance(model, Encoder) else Encoder.load(folder.model_path if model is None else model)
    encoded = _encode_queries([queries] if isinstance(queries, str) else list(queries), encoder, folder, vectors)
    hits = folder.search(
        encoded, top=top, metric=metric, where=where, columns=columns, index=index, show_progress=show_progress
    )
    return hits[0] if isinstance(queries, str) else hits


def _encode_queries(
    texts: list[str], encoder: Encoder, folder: VectorFolder, vectors: str | Path
) -> NDArray[np.float32]:
    """float32[queries, dim], by the model of a folder, whose name is `vectors`; errors are those of `search`."""
    for name, found in encoder._fingerprints.items():
        if found != folder.identity[name]:
            raise ConfigError(
                f"{vectors} was encoded by another model: its {name} have the fingerprint {folder.identity[name][:12]},"
                f" and those of {encoder._folder or 'the encoder'} {found[:12]}; pass the model that made the vectors"
            )
    try:
        encoded = encoder._encode_all(texts, folder.tokenization, show_progress=False)
        for row in np.flatnonzero(~encoded.any(axis=1)):
            raise RowError(int(row), f"is {texts[row]!r}, which has no tokens", "")
    except RowError as error:
        raise error.at(f"queries[{error.row}]", "give another query, which is tokenized as the rows were") from None
    return encoded


def train(
    config: str | Path | Mapping[str, Any] | RunConfig,
    *,
    overwrite: bool = False,
    fresh: bool = False,
    show_progress: bool = True,
) -> TrainReport:
    """Train an encoder and write it to `model.path`. An interrupted call goes on where it was when repeated.

    >>> from lengthwise import train
    >>> report = train({
    ...     "dataset": {"path": "texts.txt"},
    ...     "model": {"path": "student", "init": {"embedding_dim": 6, "hidden_size": 6}},
    ...     "train": {"teacher": "model", "sources": [{"kind": "teacher"}], "max_steps": 3},
    ... }, show_progress=False)
    >>> report.steps, report.model
    (3, 'student')

    Args:
        config: a run: its YAML file, its sections as dicts, or the configuration itself. What is trained, on what and
            how is its section `train`, see `train_config`.
        overwrite: replace a checkpoint at `model.path` that another run wrote.
        fresh: begin anew where the folder `train.output` holds an interrupted or finished run.
        show_progress: show bars.

    Raises:
        ConfigError: settings are missing, are refused, or do not fit together.
        DatasetError: a source cannot be read, or lacks a column.
        CheckpointError, TokenizerError: teacher, tokenizer or `train.init.checkpoint` cannot be used, or `model.path`
            holds another model.
        StoreError: `train.output` belongs to another run, or cannot be written.
        RunError: training diverged.
    """
    from lengthwise.training.run import train_encoder

    if isinstance(config, Mapping):
        config = parse_settings(RunConfig, dict(config), "train")
    elif not isinstance(config, RunConfig):
        config = load_config(config)
    return train_encoder(config, overwrite=overwrite, fresh=fresh, show_progress=show_progress)


def index_vectors(vectors: str | Path, *, show_progress: bool = True) -> IndexRecord:
    """Build the approximate index of a folder of vectors, in the folder; an index that is there is kept.

    A search through it compares a query with a part of the rows, as many as finding nearly all of the ten most similar
    rows takes. That is measured on rows of the folder. An interrupted call goes on where it was when repeated.

    Args:
        vectors: the folder that `encode_dataset` wrote, on a local disk.
        show_progress: show a bar.

    Returns:
        What was measured: `recall` on `queries` rows, and the size and number of `lists`, of which `probed` are used.

    Raises:
        StoreError: there is no complete folder of vectors, or an index of others; or the index cannot be written.
        ConfigError: faiss is not installed, the folder is not on a local disk, or has no rows.
    """
    from lengthwise.run.search import VectorFolder

    return VectorFolder.open(vectors).build_index(show_progress=show_progress)


def validate(
    artifact: str | Path,
    *,
    runtimes: str | Iterable[str] = "default",
    texts: Iterable[str] | None = None,
    speed: bool = True,
    show_progress: bool = False,
) -> Validation:
    """Compare runtimes with PyTorch on every graph of an artifact, and write the verdicts into it.

    Args:
        artifact: the folder.
        runtimes: `default`, `all`, or names, see `export.runtimes.registry`.
        texts: real texts to compare besides the generated batches.
        speed: also measure the time of a batch.
        show_progress: show bars.

    Raises:
        ArtifactError: there is no whole artifact, or no runtime of a name.
        StoreError: the verdicts cannot be written.
    """
    from lengthwise.export.validation.run import run_validation

    return run_validation(artifact, runtimes=runtimes, texts=texts, speed=speed, show_progress=show_progress)


def audit(
    model: str | Path | Callable[[list[str]], Any],
    *,
    output: str | None = None,
    pooling: str | None = None,
    reference: str | Path | None = None,
    quick: bool = False,
    questions: Iterable[str] | None = None,
    fix: str | Path | None = None,
    show_progress: bool = False,
    **options: Any,
) -> Audit:
    """Find out whether anybody's embedding model keeps the promise that a vector depends on its text alone.

    >>> import lengthwise
    >>> encoder = lengthwise.Encoder.load("model")
    >>> found = lengthwise.audit(encoder.encode, questions=["neighbours", "mixed lengths"])
    >>> found.passed
    True
    >>> found.answer("neighbours").says
    'a vector is the same whatever the other texts of its batch are'

    `audit(...).check()` raises an AssertionError with the report where a question fails: a test in one line.

    Args:
        model: an ONNX file, a model's folder, the URL of a server, or a function from a list of texts to vectors.
        output: the output of a graph that holds its vectors or token states, where it is not found by its name.
        pooling: of token states, where no file says: cls, mean, max, lasttoken, weightedmean, mean_sqrt_len_tokens.
        reference: another model, in float32, whose vectors it should have.
        quick: ask fewer batches, and stop after a few seconds.
        questions: names of questions, see `export.audit.questions.registry`; all by default.
        fix: where to write a graph that passes, if this one fails and can be rewritten.
        show_progress: show a bar.
        options: `engine`, `precision`, `served_model` and `timeout`, see `export.audit.targets.open.OpenOptions`.

    Raises:
        AuditError: the model cannot be opened, or is no embedding model.
        ConfigError: there is no question or option of a name.
        StoreError: the rewritten graph cannot be written.
    """
    from lengthwise.export.audit.run import run_audit

    return run_audit(
        model,
        output=output,
        pooling=pooling,
        reference=reference,
        quick=quick,
        questions=questions,
        fix=fix,
        show_progress=show_progress,
        **options,
    )
