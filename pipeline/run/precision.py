"""`encode.precision: auto`: measures the precisions of a device on a run's first texts, and takes the fastest.

- A precision is taken only if no sampled vector's cosine to float32 is further from 1 than `encode.max_cosine_loss`.
- What was measured is written into the folder, as precision.json, before the first shard. A run that goes on keeps its
  choice: another one would give other bytes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from lengthwise.config import Precision, RunConfig
from lengthwise.errors import ConfigError
from lengthwise.store.folder import open_folder
from lengthwise.store.layout import PRECISION
from lengthwise.store.protocol import Folder, read_record
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.util.system import cpu_model

if TYPE_CHECKING:
    from lengthwise.encoder.model import PackedEncoder
    from lengthwise.tokens.ragged import RaggedTokens
    from lengthwise.tokens.tokenizer import TextTokenizer

MAX_COSINE_LOSS = 1e-4
SAMPLE_ROWS, _SAMPLE_TOKENS = 256, 8_192
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasuredPrecision:
    """One precision on the sampled texts.

    Attributes:
        tokens_per_second: on a CPU, per second of CPU time.
        cosine_loss: the largest 1 - cosine of a text's vector to that in float32.
    """

    tokens_per_second: float
    cosine_loss: float


@dataclass(frozen=True)
class PrecisionChoice:
    """What was chosen, and from what.

    Attributes:
        chosen: the fastest precision within the bound.
        max_cosine_loss: the bound.
        rows, tokens: of the sample.
        processor: the CPU.
        measured: by precision.
    """

    chosen: Precision
    max_cosine_loss: float
    rows: int
    tokens: int
    processor: str
    measured: Mapping[Precision, MeasuredPrecision]

    @classmethod
    def of(
        cls, measured: Mapping[Precision, MeasuredPrecision], max_cosine_loss: float, tokens: RaggedTokens
    ) -> PrecisionChoice:
        """The fastest of those within the bound, which float32 always is."""
        allowed = [name for name, found in measured.items() if name == "fp32" or found.cosine_loss <= max_cosine_loss]
        chosen = max(allowed, key=lambda name: measured[name].tokens_per_second)
        return cls(chosen, max_cosine_loss, len(tokens), len(tokens.values), cpu_model(), measured)

    def to_json(self) -> bytes:
        """The contents of precision.json."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, contents: bytes) -> PrecisionChoice:
        """Read `to_json`'s output.

        Raises:
            ValueError, KeyError, TypeError: it is something else.
        """
        data = json.loads(contents)
        measured = {name: MeasuredPrecision(**found) for name, found in data.pop("measured").items()}
        if data["chosen"] not in measured or not measured.keys() <= set(get_args(Precision)):
            raise ValueError(f"{data['chosen']!r} was not measured")
        return cls(**data, measured=measured)

    def describe(self) -> str:
        """One sentence with all figures."""
        figures = ", ".join(
            f"{name} {found.tokens_per_second:,.0f} tokens/s"
            + ("" if name == "fp32" else f" (cosine loss {found.cosine_loss:.1e})")
            for name, found in self.measured.items()
        )
        return (
            f"chosen as the fastest whose cosine loss is at most {self.max_cosine_loss:.0e} on {self.rows} sampled"
            f" texts: {figures}, per second of CPU time on {self.processor}"
        )


def resolve_precision(
    config: RunConfig, texts: Sequence[str | None], *, is_part: bool = False, fresh: bool = False
) -> tuple[RunConfig, PrecisionChoice]:
    """A run with `encode.precision: auto` as one with the precision that its folder records, or else that is measured.

    Args:
        texts: the first of the input.
        is_part: whether this is one part of a divided run.
        fresh: whether the folder's contents are going to be removed.

    Raises:
        ConfigError: parts of a run would each choose alone; or the folder's choice exceeds the bound.
        StoreError: the folder's record is damaged.
        CheckpointError, TokenizerError: there is no whole model.
    """
    bound = MAX_COSINE_LOSS if config.encode.max_cosine_loss is None else config.encode.max_cosine_loss
    choice = None if fresh else read_choice(open_folder(config.encode.output))
    if choice is None:
        if is_part:
            raise ConfigError(
                "encode.precision is 'auto', but the parts of a divided run would each choose alone; set it to fp32,"
                " int8 or bf16"
            )
        choice = _measure(config, texts, bound)
        log.info("precision %s: %s", choice.chosen, choice.describe())
    loss = choice.measured[choice.chosen].cosine_loss
    if loss > bound:
        raise ConfigError(
            f"encode.max_cosine_loss is {bound:g}, but the vectors in {config.encode.output} were begun in"
            f" {choice.chosen}, which loses {loss:.1e}; start over with --fresh, or choose another encode.output"
        )
    encode = config.encode.model_copy(update={"precision": choice.chosen, "max_cosine_loss": None})
    return config.model_copy(update={"encode": encode}), choice


def read_choice(folder: Folder) -> PrecisionChoice | None:
    """What a folder's run chose; None where nothing was chosen.

    Raises:
        StoreError: the record is damaged.
    """
    remedy = "start over with --fresh, or set encode.precision to that in identity.json"
    return read_record(folder, PRECISION, PrecisionChoice.from_json, remedy)


def measure_precisions(
    encoder: PackedEncoder, tokens: RaggedTokens, device: Any = "cpu"
) -> dict[Precision, MeasuredPrecision]:
    """Speed and loss of each precision of a device: fp32, then those below.

    Args:
        tokens: rows, at least one with a token.
        device: as for `TorchEngine`.
    """
    from lengthwise.encoder.engine import encode_tokens
    from lengthwise.encoder.rates import measure_rates
    from lengthwise.encoder.torch_engine import TorchEngine
    from lengthwise.util.compat import cpu_has_bf16

    exact = TorchEngine(encoder, device)
    on_gpu = exact.device.type == "cuda"
    names: list[Precision] = ["bf16", "fp16"] if on_gpu else ["int8"]
    if not on_gpu and cpu_has_bf16():
        names.append("bf16")
    engines: dict[Precision, TorchEngine] = {
        "fp32": exact,
        **{name: TorchEngine(encoder, device, name) for name in names},
    }
    rates = measure_rates(list(engines.values()), tokens)
    expected = encode_tokens(tokens, exact)[0]
    losses = [_cosine_loss(encode_tokens(tokens, engine)[0], expected) for engine in engines.values()]
    return {name: MeasuredPrecision(*found) for name, *found in zip(("fp32", *names), rates, losses, strict=True)}


def _measure(config: RunConfig, texts: Sequence[str | None], bound: float) -> PrecisionChoice:
    from lengthwise.encoder.checkpoint import load_checkpoint

    encoder, tokenizer = load_checkpoint(config.model.path, config.tokenizer.path)
    tokens = _sample(config, texts, encoder, tokenizer)
    if not len(tokens.values):
        return PrecisionChoice.of({"fp32": MeasuredPrecision(0.0, 0.0)}, bound, tokens)
    return PrecisionChoice.of(measure_precisions(encoder, tokens, config.encode.device), bound, tokens)


def _sample(
    config: RunConfig, texts: Sequence[str | None], encoder: PackedEncoder, tokenizer: TextTokenizer
) -> RaggedTokens:
    """The texts' ids, of so many texts that they are at most `_SAMPLE_TOKENS`, or one text."""
    tokenization = config.resolve_tokenization(encoder.config.tokenization)
    tokens = tokenize_texts(texts, tokenizer, tokenization, bad_rows="zero")
    known = np.flatnonzero([(tokens.row(row) < encoder.config.vocab_size).all() for row in range(len(tokens))])
    rows = known[tokens.lengths[known] > 0]
    enough = int(np.searchsorted(np.cumsum(tokens.lengths[rows]), _SAMPLE_TOKENS, side="right"))
    return tokens.take(rows[: max(1, enough)])


def _cosine_loss(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest 1 - cosine of rows; infinity where one is not finite."""
    first, second = found.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    losses = np.where(norms > 0, 1 - (first * second).sum(axis=1) / np.where(norms > 0, norms, 1), 0.0)
    return float(np.nan_to_num(losses, nan=np.inf).max(initial=0))
