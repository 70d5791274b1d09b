"""A training run from its configuration to a checkpoint folder: open, identify, prepare, train, save, report.

The folder `train.output` belongs to one run. Its identity is everything that the weights depend on; another run is
refused with what differs, rather than mixed with it. Where a file lies and how often something is written do not count.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lengthwise.config import CONFIG_FILE, EncoderConfig, RunConfig, TokenizationSettings
from lengthwise.data.dataset import Source
from lengthwise.encoder.checkpoint import load_checkpoint, save_checkpoint, weights_fingerprint
from lengthwise.encoder.model import PackedEncoder
from lengthwise.errors import CheckpointError, ConfigError, LengthwiseError, StoreError
from lengthwise.store.fingerprint import describe_changes
from lengthwise.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, load_tokenizer
from lengthwise.training.batches import resolve_precision, training_precision
from lengthwise.training.cache import TeacherCache, text_keys
from lengthwise.training.checkpoints import Checkpoints
from lengthwise.training.examples import Examples, Rows, Targets, make_examples, open_source, read_rows, tokenize_column
from lengthwise.training.initialize import initialize_embedding, new_encoder
from lengthwise.training.journal import Journal
from lengthwise.training.loop import Trainer
from lengthwise.training.progress import Bars
from lengthwise.training.report import TrainReport, read_report, write_report
from lengthwise.training.static import train_static_path
from lengthwise.training.teacher import FolderTeacher, open_teacher
from lengthwise.training.vocabulary import add_words, count_tokens, cut_vocabulary
from lengthwise.util.files import write_atomically
from lengthwise.util.text_files import read_text

_IDENTITY, _MODEL = "run.json", "model_path"
_NOT_OF_THE_WEIGHTS = {  # settings that no weight depends on, or that are in the identity by their contents
    "output", "cache", "teacher", "threads", "device", "log_every", "checkpoint_every", "sources",
}  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run has before its rows are read.

    Attributes:
        config: the run's.
        teacher: None where there is none.
        sources: the opened datasets, in the order of `train.sources`.
        base: the checkpoint to go on from; None for a new encoder.
        tokenizer: of that checkpoint, of `tokenizer.path`, or the teacher's whole one.
        tokenization: of the new model.
    """

    config: RunConfig
    teacher: FolderTeacher | None
    sources: tuple[Source, ...]
    base: PackedEncoder | None
    tokenizer: TextTokenizer
    tokenization: TokenizationSettings

    def identity(self) -> dict[str, Any]:
        """Everything that the weights depend on, as JSON-ready values."""
        settings = self.config.train.model_dump(mode="json", exclude=_NOT_OF_THE_WEIGHTS)
        settings["init"].pop("checkpoint")
        sources = {
            str(number): {**settings.model_dump(mode="json", exclude={"dataset"}), "input": source.fingerprint}
            for number, (settings, source) in enumerate(zip(self.config.train.sources, self.sources, strict=True))
        }
        return {
            "train": {**settings, "sources": sources},
            "teacher": None if self.teacher is None else self.teacher.fingerprint,
            "model": {**self.config.model.init.model_dump(mode="json"), "seed": self.config.model.seed},
            "base": None if self.base is None else weights_fingerprint(self.base),
            "tokenizer": self.tokenizer.fingerprint,
            "tokenization": self.tokenization.model_dump(mode="json"),
        }


def train_encoder(
    config: RunConfig, *, overwrite: bool = False, fresh: bool = False, show_progress: bool = True
) -> TrainReport:
    """Train an encoder as `config.train` says and write it to `model.path`. An interrupted run is continued.

    Args:
        overwrite: replace a checkpoint at `model.path` that this run did not write.
        fresh: begin anew, even if there is an interrupted or finished run in `train.output`; the teacher's vectors are
            kept.
        show_progress: show bars.

    Raises:
        ConfigError: settings that are missing or do not fit together.
        DatasetError: a source cannot be read, or lacks a column.
        CheckpointError, TokenizerError: the teacher, the tokenizer or the checkpoint to go on from cannot be used; or
            model.path holds another model.
        StoreError: train.output belongs to another run, or cannot be written.
        RunError: training diverged.
    """
    prepared = _prepare(config)
    folder, identity = Path(config.train.output), prepared.identity()
    checkpoints, journal = Checkpoints(folder / "checkpoints"), Journal(folder)
    model, done = Path(config.model.path), read_report(folder)
    if fresh:
        _remove_run(folder, checkpoints)
    claimed = _claim(folder, identity)
    is_done = done is not None and done.model == config.model.path
    if claimed is not None and done is not None and is_done and (model / CONFIG_FILE).is_file():
        return done
    _check_target(model, overwrite=overwrite or is_done or claimed == config.model.path)
    device = _device(config.train.device)
    bars = Bars(show_progress)
    opened = zip(config.train.sources, prepared.sources, strict=True)
    rows = [read_rows(number, settings, source, bars) for number, (settings, source) in enumerate(opened)]
    _check_vectors(prepared, rows)
    cache = _teach(prepared, rows, folder, bars)
    tokenizer = _student_tokenizer(prepared, rows, folder, bars, is_ours=claimed is not None)
    examples = _make_examples(prepared, rows, cache, tokenizer, bars)
    _write_identity(folder, {**identity, _MODEL: config.model.path})
    with _torch_settings(config):
        encoder, snapshot = _new_encoder(prepared, tokenizer), checkpoints.latest()
        rows.clear()  # the texts
        is_new = snapshot is None and prepared.base is None
        if is_new:
            _initialize(prepared, encoder, tokenizer, examples, cache, bars)
        encoder.to(device)
        has_started = is_new and train_static_path(encoder, examples, config.train, bars) is not None
        trainer = Trainer(encoder, examples, config.train)
        if snapshot is not None:
            trainer.restore(snapshot)
        elif has_started:
            checkpoints.save(trainer.snapshot())
        journal.resume(trainer.step)
        trainer.run(checkpoints, journal, show_progress=show_progress)
    save_checkpoint(model, encoder.cpu(), tokenizer)
    write_atomically(model / "run.yaml", config.to_yaml().encode())
    return write_report(folder, config, trainer, examples, journal.read())


def _prepare(config: RunConfig) -> Prepared:
    """Open what a run reads, without reading rows."""
    settings = config.train
    if not settings.sources:
        raise ConfigError(
            "train.sources is empty; name what to learn from, e.g. train.sources=[{kind: teacher}] and train.teacher"
        )
    device = _device(settings.device).type
    training_precision(settings, device)
    teacher = None
    if settings.teacher is not None:
        precision = resolve_precision(settings.teacher_precision, device)
        teacher = open_teacher(settings.teacher, precision=precision, device="cuda" if device == "cuda" else "cpu")
    sources = tuple(open_source(source, config.dataset) for source in settings.sources)
    if settings.init.checkpoint is not None:
        base, tokenizer = load_checkpoint(settings.init.checkpoint)
        tokenization = config.resolve_tokenization(base.config.tokenization)
        return Prepared(config, teacher, sources, base, tokenizer, tokenization)
    if config.tokenizer.path is not None:
        tokenizer, special = load_tokenizer(config.tokenizer.path), True
    elif teacher is not None:
        tokenizer, special = teacher.load_tokenizer(), False
    else:
        raise ConfigError(
            "there is no tokenizer: set tokenizer.path to one (lengthwise train-tokenizer makes one), or train.teacher,"
            " whose tokenizer is then taken, or train.init.checkpoint"
        )
    tokenization = config.resolve_tokenization(TokenizationSettings(add_special_tokens=special))
    return Prepared(config, teacher, sources, None, tokenizer, tokenization)


def _remove_run(folder: Path, checkpoints: Checkpoints) -> None:
    """Remove what a run wrote into its folder, except the teacher's vectors."""
    if (folder / _IDENTITY).is_file():
        checkpoints.clear()
        for path in folder.iterdir():
            if path.is_file():
                path.unlink()


def _claim(folder: Path, identity: dict[str, Any]) -> str | None:
    """Where the folder's run writes its model, if it is this run; None if the folder holds no run.

    Raises:
        StoreError: it holds another one.
    """
    path = folder / _IDENTITY
    try:
        found = json.loads(read_text(path))
        model = str(found.pop(_MODEL, ""))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); start over with --fresh") from error
    changes = describe_changes(found, json.loads(json.dumps(identity)))
    if changes:
        raise StoreError(
            f"{folder}: belongs to another run ({changes}); start over with --fresh, or choose another train.output"
        )
    return model


def _write_identity(folder: Path, identity: dict[str, Any]) -> None:
    write_atomically(folder / _IDENTITY, json.dumps(identity, indent=2).encode() + b"\n")


def _check_target(model: Path, *, overwrite: bool) -> None:
    if model.exists() and not overwrite:
        raise CheckpointError(f"{model}: already exists, and may be trained; give --overwrite to replace it")


def _teach(prepared: Prepared, rows: Sequence[Rows], folder: Path, bars: Bars) -> TeacherCache | None:
    """The teacher's vectors of all texts that need one."""
    settings, teacher = prepared.config.train, prepared.teacher
    texts = [text for source in rows if source.settings.kind == "teacher" for text in source.texts[0]]
    if teacher is None or not texts:
        return None
    cache = TeacherCache(Path(settings.cache or folder / "teacher"), teacher, settings.teacher_dtype)
    _check_width(prepared, cache.dim, f"the teacher {teacher.name}")
    cache.fill(texts, bars)
    return cache


def _student_tokenizer(
    prepared: Prepared, rows: Sequence[Rows], folder: Path, bars: Bars, *, is_ours: bool
) -> TextTokenizer:
    """The new model's tokenizer: the one that is given, or the teacher's, with words added, and without rare tokens.

    Args:
        is_ours: whether the folder holds this run, which was interrupted, and so perhaps the tokenizer.
    """
    init, tokenizer = prepared.config.train.init, prepared.tokenizer
    is_cut = init.vocabulary is not None and init.vocabulary < tokenizer.vocab_size + init.words
    if prepared.base is not None or not (init.words or is_cut):
        return tokenizer
    path = folder / TOKENIZER_FILE
    if is_ours and path.is_file():
        return load_tokenizer(path)
    columns = [
        tokenize_column(column, tokenizer, TokenizationSettings(add_special_tokens=False), f"count {each.name}", bars)
        for each in rows
        for column in each.texts
    ]
    if init.words:
        tokenizer, counts = add_words(tokenizer, columns, init.words)
    else:
        counts = count_tokens(columns, tokenizer.vocab_size)
    if init.vocabulary is not None and init.vocabulary < tokenizer.vocab_size:
        tokenizer = cut_vocabulary(tokenizer, counts, init.vocabulary)
    write_atomically(path, tokenizer.to_json().encode())
    return tokenizer


def _make_examples(
    prepared: Prepared, rows: Sequence[Rows], cache: TeacherCache | None, tokenizer: TextTokenizer, bars: Bars
) -> list[Examples]:
    settings = prepared.config.train
    limits = [limit for limit in (settings.max_length, prepared.tokenization.max_length) if limit is not None]
    cut = {"max_length": min(limits), "truncate": True} if limits else {}
    tokenization = prepared.tokenization.model_copy(update=cut)
    return [
        make_examples(
            source,
            _targets(source, cache),
            tokenizer,
            tokenization,
            held_out=settings.validation.rows,
            seed=settings.seed,
            bars=bars,
        )
        for source in rows
    ]


def _targets(rows: Rows, cache: TeacherCache | None) -> Targets | None:
    if rows.settings.kind == "teacher" and cache is not None:
        positions = cache.find(text_keys(rows.texts[0]))
        return lambda chosen: cache.take(positions[chosen])
    column = rows.column
    return None if column is None else lambda chosen: column[chosen]


def _new_encoder(prepared: Prepared, tokenizer: TextTokenizer) -> PackedEncoder:
    if prepared.base is not None:
        config = prepared.base.config.model_copy(update={"tokenization": prepared.tokenization, "trained": True})
        encoder = PackedEncoder(config)
        encoder.load_state_dict(prepared.base.state_dict())
        return encoder
    model, training = prepared.config.model, prepared.config.tokenizer.training
    tokens = (training.pad_token, training.unk_token)
    return new_encoder(model.init, tokenizer, prepared.tokenization, model.seed, tokens)


def _initialize(
    prepared: Prepared,
    encoder: PackedEncoder,
    tokenizer: TextTokenizer,
    examples: Sequence[Examples],
    cache: TeacherCache | None,
    bars: Bars,
) -> None:
    """Set the embedding of a new encoder.

    Raises:
        ConfigError: the teacher has no such vectors as `train.init.embedding` names.
    """
    settings, teacher = prepared.config.train.init, prepared.teacher
    if teacher is None or settings.embedding == "random":
        return
    table, is_output = None, settings.embedding != "teacher_words"
    if is_output:
        table = (teacher if cache is None else cache).token_vectors(bars)
    if table is None and settings.embedding != "teacher":
        table, is_output = teacher.word_embeddings(), False
    if table is None and settings.embedding is not None:
        raise ConfigError(
            f"train.init.embedding is {settings.embedding!r}, but the teacher {teacher.name} has none that can be read;"
            " leave it out, or set it to random"
        )
    if table is None:
        log.warning("the teacher %s has no vectors of tokens that can be read: the embedding is random", teacher.name)
        return
    counts = count_tokens([side for source in examples for side in source.sides], tokenizer.vocab_size)
    theirs = teacher.load_tokenizer()
    rows = {theirs.token(number) or "": number for number in range(len(table))}
    words = [name for name in map(tokenizer.token, range(tokenizer.vocab_size)) if name and name not in rows]
    vectors = teacher.word_vectors(words) if settings.words and is_output else None
    if vectors is not None:
        rows |= {word: number for number, word in enumerate(words, len(table))}
        table = np.concatenate([table, vectors])
    initialize_embedding(encoder, tokenizer, rows, table, counts, settings, is_output=is_output)


def _check_vectors(prepared: Prepared, rows: Sequence[Rows]) -> None:
    """Refuse vectors of another width than the encoder's, before minutes are spent on the teacher's."""
    for source in rows:
        if source.settings.kind == "vectors" and source.column is not None:
            _check_width(prepared, source.column.shape[1], f"train.sources.{source.name}")


def _check_width(prepared: Prepared, found: int, what: str) -> None:
    shape = prepared.config.model.init.model_dump()
    config = EncoderConfig(**shape, vocab_size=1) if prepared.base is None else prepared.base.config
    if config.dim != found:
        raise ConfigError(
            f"{what} gives vectors of {found} values, and the new encoder {config.dim}; set model.init.projection_dim"
            f" to {found}"
        )


def _device(name: Literal["cpu", "cuda", "auto"]) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise LengthwiseError("train.device is cuda, but PyTorch finds no GPU here; set it to cpu or auto")
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


@contextmanager
def _torch_settings(config: RunConfig) -> Iterator[None]:
    """PyTorch's threads and random generator of the run inside the block, and those of before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(config.train.threads or before)
    torch.set_flush_denormal(True)  # moments of rows that are rarely seen would become denormal, which is slow
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
