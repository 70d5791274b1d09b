"""The steps of a run as functions of its configuration: what the commands call between parsing and printing.

- A step imports what it needs when it runs: encoding with an artifact imports onnxruntime and not PyTorch.
- Exporting and validating are functions of their own packages: `export.artifact.build.export_run` and
  `export.validation.run.run_validation`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise.config import CONFIG_FILE, EncoderConfig, RunConfig, TokenizationSettings, load_encoder_config
from lengthwise.errors import CheckpointError, ConfigError, TokenizerError
from lengthwise.util.files import write_atomically

if TYPE_CHECKING:
    from lengthwise.batching.inspection import Inspection
    from lengthwise.data.dataset import Source
    from lengthwise.data.input import Input
    from lengthwise.encoder.engine import Engine
    from lengthwise.run.cluster import OpenEngine
    from lengthwise.run.growing import Added, Planned
    from lengthwise.run.precision import PrecisionChoice
    from lengthwise.run.stats import EncodeReport
    from lengthwise.run.verify import SampleReport
    from lengthwise.store.parts import Part
    from lengthwise.tokens.tokenizer import TextTokenizer

SAMPLE_ROWS = 256
log = logging.getLogger(__name__)


def train_run_tokenizer(config: RunConfig, *, overwrite: bool = False) -> TextTokenizer:
    """Train a tokenizer on a run's dataset and write it to `tokenizer.path`, with the configuration beside it.

    Args:
        overwrite: replace a tokenizer that is already there.

    Raises:
        ConfigError: `tokenizer.path` is not set.
        TokenizerError: the file exists, or training fails.
        DatasetError: the dataset cannot be read.
        StoreError: the file cannot be written.
    """
    from lengthwise.data.dataset import open_run_dataset
    from lengthwise.tokens.training import train_tokenizer

    if config.tokenizer.path is None:
        raise ConfigError("tokenizer.path is not set; set it to the tokenizer.json that is to be written")
    path = Path(config.tokenizer.path)
    if path.exists() and not overwrite:
        raise TokenizerError(f"{path}: already exists, and models may depend on it; give --overwrite to replace it")
    texts = open_run_dataset(config).texts()
    tokenizer = train_tokenizer(texts, config.tokenizer.training, show_progress=True)
    write_atomically(path, tokenizer.to_json().encode())
    write_atomically(path.with_suffix(".run.yaml"), config.to_yaml().encode())
    return tokenizer


def create_run_checkpoint(config: RunConfig, *, overwrite: bool = False) -> EncoderConfig:
    """Write a checkpoint with seeded random weights to `model.path`, for the tokenizer at `tokenizer.path`.

    Args:
        overwrite: replace a checkpoint that is already there.

    Raises:
        ConfigError: `tokenizer.path` is not set.
        TokenizerError: the tokenizer cannot be read.
        CheckpointError: the folder exists, or does not hold a checkpoint; or the tokenizer has no padding token.
        StoreError: the folder cannot be written.
    """
    from lengthwise.encoder.checkpoint import create_checkpoint
    from lengthwise.tokens.tokenizer import load_tokenizer

    if config.tokenizer.path is None:
        raise ConfigError("tokenizer.path is not set; set it to the tokenizer.json that the model is for")
    folder, training = Path(config.model.path), config.tokenizer.training
    if folder.exists() and not overwrite:
        raise CheckpointError(f"{folder}: already exists, and may be trained; give --overwrite to replace it")
    created = create_checkpoint(
        folder,
        load_tokenizer(config.tokenizer.path),
        config.model.init,
        config.resolve_tokenization(TokenizationSettings()),
        pad_token=training.pad_token,
        unk_token=training.unk_token,
        seed=config.model.seed,
    )
    write_atomically(folder / "run.yaml", config.to_yaml().encode())
    return created


def sample_texts(config: RunConfig, rows: int = SAMPLE_ROWS) -> list[str]:
    """The first texts of a run's dataset, for validation.

    Raises:
        DatasetError: the dataset cannot be read.
    """
    from lengthwise.data.dataset import open_run_dataset

    source = open_run_dataset(config)
    return list(islice(source.texts(), rows))


def inspect_source(config: RunConfig, source: Source) -> tuple[Inspection, TokenizationSettings]:
    """Tokenize the first shard of a run's dataset, uncut, and plan its batches; no model is loaded.

    Returns:
        The lengths and the costs of batching them, and the tokenization that encoding would use.

    Raises:
        TokenizerError: the tokenizer cannot be read.
        DatasetError: the dataset cannot be read.
        ArtifactError, CheckpointError: the model's config.json cannot be read.
        ConfigError: the run's tokenization settings do not fit the model's.
    """
    from lengthwise.batching.costs import expected_costs
    from lengthwise.batching.inspection import batch_strategies, inspect_tokens
    from lengthwise.encoder.kernel import has_bf16_kernel
    from lengthwise.encoder.padding import read_lengths
    from lengthwise.tokens.tokenize import tokenize_texts
    from lengthwise.tokens.tokenizer import load_tokenizer

    model_folder = config.export.output if config.encode.engine == "onnx" else config.model.path
    tokenizer = load_tokenizer(config.tokenizer.path or model_folder)
    model = _load_model_config(config)
    tokenization = config.resolve_tokenization(TokenizationSettings() if model is None else model.tokenization)
    uncut = tokenization.model_copy(update={"max_length": None, "truncate": False})
    texts = next(source.shards()).texts
    tokens = tokenize_texts(texts, tokenizer, uncut, bad_rows="zero")
    encode = config.encode
    fused_bf16 = encode.precision == "bf16" and has_bf16_kernel()  # which imports LLVM
    costs = expected_costs(encode.engine, encode.precision, encode.device, fused_bf16=fused_bf16)
    strategies = batch_strategies(costs, config.batching.max_tokens, config.batching.max_rows)
    read = None if model is None else partial(read_lengths, config=model)
    return inspect_tokens(tokens, strategies, tokenization.max_length, read), tokenization


def encode_run(
    config: RunConfig, *, part: Part | None = None, cluster: str | None = None, fresh: bool = False
) -> EncodeReport:
    """Encode what a run has not encoded yet, here or on a Ray cluster, and write its report beside the vectors.

    Args:
        part: one part of the run's shards; the folder is then left to be finished by `run.finalize`.
        cluster: `local`, or the address of a Ray cluster.
        fresh: remove the vectors that are there, whichever run they are of.

    Raises:
        ConfigError: settings that do not fit together.
        CheckpointError, ArtifactError, TokenizerError: there is no whole model, or its parts do not fit.
        DatasetError, TextError: the input cannot be read, or a row cannot be encoded.
        StoreError: the folder holds other vectors, or cannot be written.
    """
    from lengthwise.data.dataset import find_run_dataset, open_run_dataset
    from lengthwise.run.report import write_report

    is_growing, is_part = config.encode.append, part is not None
    data: Any = find_run_dataset(config) if is_growing else open_run_dataset(config)
    config, choice = _chosen_precision(
        config, lambda: data.open_whole(None) if is_growing else data, is_part=is_part, fresh=fresh
    )
    open_engine = _engine_opener(config)
    if cluster is None:
        here = encode_input if is_growing else encode_source
        return here(config, data, *open_engine(config, None), part=part, fresh=fresh, choice=choice)
    from lengthwise.run.cluster import append_on_cluster, encode_on_cluster

    there = append_on_cluster if is_growing else encode_on_cluster
    report = there(config, data, open_engine, cluster, fresh=fresh, choice=choice)
    write_report(config.encode.output, config, report)
    return report


def _chosen_precision(
    config: RunConfig, open_source: Callable[[], Source], *, is_part: bool = False, fresh: bool = False
) -> tuple[RunConfig, PrecisionChoice | None]:
    """A run with a precision: that of its folder or, if it is the first one, that which its first texts decide."""
    if config.encode.precision != "auto":
        return config, None
    from lengthwise.run.precision import SAMPLE_ROWS, read_choice, resolve_precision
    from lengthwise.store.folder import open_folder

    known = None if fresh else read_choice(open_folder(config.encode.output))
    texts = [] if known is not None else list(islice(open_source().texts(), SAMPLE_ROWS))
    return resolve_precision(config, texts, is_part=is_part, fresh=fresh)


def encode_input(
    config: RunConfig,
    found: Input,
    engine: Engine,
    tokenizer: TextTokenizer,
    *,
    part: Part | None = None,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> EncodeReport:
    """Add the rows that an input has gained, with an open engine, and write the report beside the vectors.

    Args and errors are those of `encode_source`.
    """
    from lengthwise.run.append import encode_append
    from lengthwise.run.report import write_report

    _warn_of_untrained(engine)
    report = encode_append(
        config, found, tokenizer, engine, part=part, fresh=fresh, show_progress=show_progress, choice=choice
    )
    write_report(config.encode.output, config, report)
    return report


def plan_run(config: RunConfig, *, fresh: bool = False) -> Planned:
    """Record the rows that an input has gained, for the parts of a run with `encode.append` to encode.

    Args and errors are those of `encode_run`.

    Raises:
        ConfigError: the run does not append.
    """
    from lengthwise.data.dataset import find_run_dataset
    from lengthwise.run.append import plan_append

    if not config.encode.append:
        raise ConfigError("--plan is for rows that are added to a folder, but encode.append is false; leave it out")
    found = find_run_dataset(config)
    config, choice = _chosen_precision(config, lambda: found.open_whole(None), fresh=fresh)
    engine, tokenizer = _engine_opener(config)(config, None)
    return plan_append(config, found, tokenizer, engine, fresh=fresh, choice=choice)


def follow_run(
    config: RunConfig,
    *,
    interval: float,
    idle_exit: float | None = None,
    fresh: bool = False,
    on_added: Callable[[Added], object] = lambda added: None,
) -> EncodeReport:
    """Encode each file that comes into a run's folder, see `lengthwise.run.follow`.

    Args:
        interval: seconds between two looks at the folder.
        idle_exit: seconds without a new file after which it ends; it does not end by itself where it is None.
        fresh: remove the vectors that are there, whichever run they are of.
        on_added: is called after each commit.

    Raises:
        ConfigError: the input is not made of files, or the precision would have to be chosen.
        LengthwiseError: as `encode_run`.
    """
    from lengthwise.run.follow import follow
    from lengthwise.run.report import write_report

    config, choice = _chosen_precision(config, _no_first_texts, fresh=fresh)
    engine, tokenizer = _engine_opener(config)(config, None)
    _warn_of_untrained(engine)
    report = follow(
        config,
        tokenizer,
        engine,
        interval=interval,
        idle_exit=idle_exit,
        fresh=fresh,
        choice=choice,
        on_added=on_added,
    )
    write_report(config.encode.output, config, report)
    return report


def _no_first_texts() -> Source:
    raise ConfigError("encode.precision is 'auto', but the first texts are not there yet; set it to fp32, int8 or bf16")


def _warn_of_untrained(engine: Engine) -> None:
    if not engine.config.trained:
        log.warning("the encoder was never trained (seed %s)", engine.config.seed)


def finalize_run(config: RunConfig, *, verify: bool = True) -> dict[str, Any]:
    """Check the vectors of a run against its dataset, and write their card and manifest, which is returned.

    Args:
        verify: read all shards and compare their sha256.

    Raises:
        StoreError: the folder is another run's, another process writes to it, or it is incomplete or damaged.
        DatasetError: the input cannot be read.
    """
    from lengthwise.data.dataset import find_run_dataset, open_run_dataset

    if config.encode.append:
        from lengthwise.run.append import finalize_appended

        return finalize_appended(config, find_run_dataset(config), verify=verify)
    from lengthwise.run.finalize import finalize_folder

    return finalize_folder(config, open_run_dataset(config), verify=verify)


def encode_source(
    config: RunConfig,
    source: Source,
    engine: Engine,
    tokenizer: TextTokenizer,
    *,
    part: Part | None = None,
    fresh: bool = False,
    show_progress: bool = True,
    choice: PrecisionChoice | None = None,
) -> EncodeReport:
    """Encode an open dataset with an open engine in this process, and write the report beside the vectors.

    Args and errors are those of `encode_run`; `choice` is how the engine's precision was chosen, if it was.
    """
    from lengthwise.run.local import encode_dataset
    from lengthwise.run.report import write_report

    _warn_of_untrained(engine)
    report = encode_dataset(
        config, source, tokenizer, engine, part=part, fresh=fresh, show_progress=show_progress, choice=choice
    )
    write_report(config.encode.output, config, report)
    return report


def verify_vectors(config: RunConfig, kept: str, *, sample: int) -> SampleReport:
    """Encode some of a run's texts that a cache, or a folder of vectors, has, and compare the bits.

    Args:
        kept: the cache or the folder, a path or a URL.
        sample: how many.

    Raises:
        ConfigError: the vectors of this run cannot be compared with those that are there.
        StoreError: there is no such cache or folder, or it has none of the texts.
        DatasetError, TokenizerError, CheckpointError, ArtifactError: the input or the model cannot be opened.
    """
    from lengthwise.data.dataset import open_run_dataset
    from lengthwise.run.verify import verify_sample

    source = open_run_dataset(config)
    config, _ = _chosen_precision(config, lambda: source)
    engine, tokenizer = _engine_opener(config)(config, None)
    return verify_sample(kept, config, source, tokenizer, engine, sample=sample)


def _engine_opener(config: RunConfig) -> OpenEngine:
    """The function that opens a run's engine: a checkpoint in PyTorch, or an artifact on onnxruntime."""
    if config.encode.engine == "onnx":
        from lengthwise.export.artifact.engine import open_onnx

        return open_onnx
    from lengthwise.encoder.torch_engine import open_torch

    return open_torch


def _load_model_config(config: RunConfig) -> EncoderConfig | None:
    """The configuration of a run's model; None where there is no model so far."""
    from lengthwise.export.artifact.folder import MANIFEST_FILE, Artifact

    checkpoint, artifact = Path(config.model.path) / CONFIG_FILE, Path(config.export.output)
    if config.encode.engine == "onnx" and (artifact / MANIFEST_FILE).is_file():
        return Artifact.open(artifact).load_config()
    if config.encode.engine == "torch" and checkpoint.is_file():
        return load_encoder_config(checkpoint)
    return None
