"""`encode.precision: auto` takes the fastest precision within the bound, records what it measured, and keeps to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from helpers.ragged import ragged
from helpers.runs import data_files, run_config
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, Precision, RunConfig
from lengthwise.encoder.checkpoint import save_checkpoint
from lengthwise.encoder.engine import encode_tokens
from lengthwise.encoder.model import seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run import precision as module
from lengthwise.run.precision import MeasuredPrecision, PrecisionChoice, measure_precisions
from lengthwise.steps import encode_run
from lengthwise.store.parts import Part
from lengthwise.tokens.tokenizer import TextTokenizer

MEASURED: Mapping[Precision, MeasuredPrecision] = {
    "fp32": MeasuredPrecision(100.0, 0.0),
    "int8": MeasuredPrecision(300.0, 2e-5),
    "bf16": MeasuredPrecision(200.0, 1e-6),
}


@pytest.fixture
def config(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig], texts_file: Path
) -> RunConfig:
    save_checkpoint(tmp_path / "model", seeded_encoder(encoder_config(hidden_size=16), 0), tokenizer)
    return run_config(
        tmp_path / "vectors", texts_file, model={"path": str(tmp_path / "model")}, encode={"precision": "auto"}
    )


def bounded(config: RunConfig, bound: float) -> RunConfig:
    return config.model_copy(update={"encode": config.encode.model_copy(update={"max_cosine_loss": bound})})


def recorded(config: RunConfig) -> dict[str, object]:
    return json.loads((Path(config.encode.output) / "precision.json").read_bytes())


def engine_of(config: RunConfig) -> str:
    return json.loads((Path(config.encode.output) / "identity.json").read_bytes())["depends_on"]["engine"]


@pytest.mark.parametrize(("bound", "chosen"), [(1e-4, "int8"), (2e-5, "int8"), (1e-5, "bf16"), (1e-7, "fp32")])
def test_fastest_within_the_bound_is_chosen(bound: float, chosen: str) -> None:
    choice = PrecisionChoice.of(MEASURED, bound, ragged([[1, 2], [3]]))
    assert (choice.chosen, choice.rows, choice.tokens) == (chosen, 2, 3)
    assert PrecisionChoice.from_json(choice.to_json()) == choice
    assert "fp32 100 tokens/s, int8 300 tokens/s (cosine loss 2.0e-05)" in choice.describe()


def test_fp32_is_chosen_where_it_is_the_fastest() -> None:
    slow = {"fp32": MeasuredPrecision(100.0, 0.0), "bf16": MeasuredPrecision(90.0, 0.0)}
    assert PrecisionChoice.of(slow, 1e-4, ragged([[1]])).chosen == "fp32"


def test_losses_are_those_of_the_engines() -> None:
    encoder = seeded_encoder(EncoderConfig(vocab_size=40, embedding_dim=8, hidden_size=16, bidirectional=True), 0)
    random = np.random.default_rng(0)
    tokens = ragged([random.integers(0, 40, size).tolist() for size in (1, 3, 9, 9, 20)])
    found = measure_precisions(encoder, tokens)
    assert found["fp32"].cosine_loss == pytest.approx(0, abs=1e-15)
    exact, rounded = (encode_tokens(tokens, TorchEngine(encoder, precision=name))[0] for name in ("fp32", "int8"))
    exact, rounded = exact.astype(np.float64), rounded.astype(np.float64)
    cosines = (exact * rounded).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert found["int8"].cosine_loss == pytest.approx(1 - cosines.min(), rel=1e-6)
    assert 0 < found["int8"].cosine_loss < 1e-3
    assert all(each.tokens_per_second > 0 for each in found.values())


def test_run_records_what_it_measured_and_keeps_its_choice(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    report = encode_run(config)
    record = recorded(config)
    assert record["max_cosine_loss"] == 1e-4
    assert record["rows"] == len([text for text in TEXTS if text])
    assert {"fp32", "int8"} <= record["measured"].keys()
    assert report.chosen in (Path(config.encode.output) / "report.md").read_text()
    before, engine = data_files(Path(config.encode.output)), engine_of(config)
    assert engine.split()[2:3] == ([] if record["chosen"] == "fp32" else [record["chosen"]])

    def never(*_: object) -> None:
        raise AssertionError("a run that goes on measures nothing")

    monkeypatch.setattr(module, "measure_precisions", never)
    (Path(config.encode.output) / "manifest.json").unlink()
    (Path(config.encode.output) / "data" / "shard-000001.parquet").unlink()
    encode_run(config)
    assert data_files(Path(config.encode.output)) == before
    assert recorded(config) == record


@pytest.mark.parametrize("chosen", ["fp32", "int8"])
def test_chosen_precision_computes(config: RunConfig, chosen: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """And an interrupted run keeps it, though it is not the fastest any more."""
    fastest = {**MEASURED, chosen: MeasuredPrecision(1e9, 0.0)}
    monkeypatch.setattr(module, "measure_precisions", lambda *_: fastest)
    encode_run(config)
    assert (chosen == "int8") == ("int8" in engine_of(config))
    monkeypatch.setattr(module, "measure_precisions", lambda *_: MEASURED)
    encode_run(config)
    assert recorded(config)["chosen"] == chosen
    encode_run(config, fresh=True)
    assert "int8" in engine_of(config)


def test_tighter_bound_than_the_folders_choice_is_refused(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_precisions", lambda *_: MEASURED)
    encode_run(config)
    with pytest.raises(ConfigError, match=r"max_cosine_loss is 1e-06.*begun in int8, which loses 2\.0e-05.*--fresh"):
        encode_run(bounded(config, 1e-6))
    encode_run(bounded(config, 1e-6), fresh=True)
    assert recorded(config)["chosen"] == "bf16" if "bf16" in engine_of(config) else "fp32"


def test_parts_do_not_choose_alone(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"'auto', but the parts of a divided run.*set it to fp32"):
        encode_run(config, part=Part(0, 2))
    assert not Path(config.encode.output).exists()


@pytest.mark.parametrize("damage", [b"{", b"{}", b'{"chosen": "int8", "measured": {}}', b"[1]"])
def test_damaged_record_is_reported(config: RunConfig, damage: bytes) -> None:
    folder = Path(config.encode.output)
    folder.mkdir()
    (folder / "precision.json").write_bytes(damage)
    with pytest.raises(StoreError, match=r"precision\.json: cannot be read.*--fresh"):
        encode_run(config)
