"""Checkpoint folders: round trips, and refusals that give both numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lengthwise.config import EncoderConfig, EncoderSettings, TokenizationSettings, TokenizerTraining
from lengthwise.encoder.checkpoint import (
    create_checkpoint,
    load_checkpoint,
    save_checkpoint,
    weights_fingerprint,
)
from lengthwise.encoder.model import seeded_encoder
from lengthwise.errors import CheckpointError, ConfigError, TokenizerError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]) -> Path:
    config = encoder_config(
        num_layers=2, bidirectional=True, projection_dim=5, tokenizer_fingerprint=tokenizer.fingerprint
    )
    save_checkpoint(tmp_path / "model", seeded_encoder(config, 0), tokenizer)
    return tmp_path / "model"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_checkpoint_survives_a_round_trip(checkpoint: Path, tokenizer: TextTokenizer) -> None:
    assert sorted(path.name for path in checkpoint.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    encoder, loaded = load_checkpoint(checkpoint)
    assert loaded.fingerprint == tokenizer.fingerprint
    original = seeded_encoder(encoder.config, 0)
    assert weights_fingerprint(encoder) == weights_fingerprint(original)
    ids, lengths = torch.tensor([[2, 3, 4], [5, 0, 0]]), torch.tensor([3, 1])
    assert torch.equal(encoder(ids, lengths), original(ids, lengths))
    assert not encoder.training


def test_loading_draws_no_weights(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device that would import the tracer of PyTorch, which takes seconds."""
    monkeypatch.setattr(torch.nn.init, "normal_", lambda *_, **__: pytest.fail("weights are drawn"))
    load_checkpoint(checkpoint)


def test_saving_again_replaces_the_folder_and_gives_the_same_bytes(checkpoint: Path) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    (checkpoint / "stale.txt").write_text("old")
    save_checkpoint(checkpoint, *load_checkpoint(checkpoint))
    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_fingerprint_depends_on_every_weight(encoder_config: Callable[..., EncoderConfig]) -> None:
    encoder = seeded_encoder(encoder_config(projection_dim=3), 0)
    seen = {weights_fingerprint(encoder)}
    for weight in encoder.parameters():
        with torch.no_grad():
            weight.view(-1)[-1] += 1e-3
        seen.add(weights_fingerprint(encoder))
    assert len(seen) == 1 + len(list(encoder.parameters()))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(checkpoint: Path, name: str) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(checkpoint)


def test_missing_tokenizer_is_named(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_checkpoint(checkpoint)


def test_missing_folder_message_names_what_makes_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint.* train or import.*random weights with init-model"):
        load_checkpoint(tmp_path / "nothing")


def test_sizes_that_do_not_fit_are_refused_with_both_numbers(checkpoint: Path) -> None:
    edit_config(checkpoint, hidden_size=7)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(checkpoint)
    assert "lstm.weight_hh_l0 is [24, 6] in the file, [28, 7] by config.json" in str(error.value)


def test_weights_that_are_missing_or_extra_are_named(checkpoint: Path) -> None:
    edit_config(checkpoint, num_layers=1)
    with pytest.raises(CheckpointError, match=r"lstm\.bias_hh_l1 is not part of this encoder"):
        load_checkpoint(checkpoint)
    edit_config(checkpoint, num_layers=3)
    with pytest.raises(CheckpointError, match=r"lstm\.bias_hh_l2 is missing"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "embedding_dim", "vocab_size", "projection_dim"])
def test_config_larger_than_the_weights_is_refused(checkpoint: Path, name: str) -> None:
    edit_config(checkpoint, **{name: 10**18})
    with pytest.raises(CheckpointError, match=f"{name} is 1000000000000000000, but there are .* weights"):
        load_checkpoint(checkpoint)


def test_dtype_other_than_float32_is_refused(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["embedding.weight"] = weights["embedding.weight"].half()
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"embedding\.weight is torch\.float16, not float32"):
        load_checkpoint(checkpoint)


def test_damaged_files_are_named(checkpoint: Path) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file"):
        load_checkpoint(checkpoint)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not valid JSON"):
        load_checkpoint(checkpoint)


def test_other_model_type_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, model_type="bert")
    with pytest.raises(CheckpointError, match="model_type is 'bert'"):
        load_checkpoint(checkpoint)


def test_all_mistakes_of_a_config_are_reported(checkpoint: Path) -> None:
    edit_config(checkpoint, pooling="median", hidden_size=0, dropout=0.1)
    with pytest.raises(ConfigError) as error:
        load_checkpoint(checkpoint)
    assert all(name in str(error.value) for name in ("pooling", "hidden_size", "dropout", "3 mistakes"))


def test_tokenizer_of_another_model_is_refused(checkpoint: Path, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    other = train_tokenizer(["other words"], TokenizerTraining(model="wordlevel", min_frequency=1))
    (checkpoint / "tokenizer.json").write_text(other.to_json())
    with pytest.raises(TokenizerError, match=other.fingerprint[:12]):
        load_checkpoint(checkpoint)


def test_tokenizer_with_more_ids_than_rows_is_refused_with_both_numbers(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    encoder = seeded_encoder(encoder_config(vocab_size=4), 0)
    with pytest.raises(TokenizerError, match=rf"{tokenizer.vocab_size} ids.*4 rows"):
        save_checkpoint(tmp_path / "model", encoder, tokenizer)
    assert not (tmp_path / "model").exists()


def test_created_checkpoint_is_recorded_as_untrained(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    tokenization = TokenizationSettings(max_length=9)
    shape = EncoderSettings(hidden_size=4, pooling="max")
    config = create_checkpoint(tmp_path / "model", tokenizer, shape, tokenization, seed=7)
    encoder, _ = load_checkpoint(tmp_path / "model")
    assert encoder.config == config
    assert (config.trained, config.seed, config.pooling) == (False, 7, "max")
    assert (config.hidden_size, config.tokenization) == (4, tokenization)
    assert (config.pad_token_id, config.unk_token_id, config.vocab_size) == (0, 1, tokenizer.vocab_size)


def test_tokenizer_without_the_pad_token_is_refused(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"no token '<pad>'.*pad_token"):
        create_checkpoint(tmp_path / "model", tokenizer, pad_token="<pad>")


def test_tokenizer_path_is_accepted_if_the_tokenizer_is_the_models(checkpoint: Path, tmp_path: Path) -> None:
    own = load_checkpoint(checkpoint)[1].fingerprint
    assert load_checkpoint(checkpoint, checkpoint / "tokenizer.json")[1].fingerprint == own
    other = train_tokenizer(["other words"], TokenizerTraining(model="wordlevel", min_frequency=1))
    (tmp_path / "other.json").write_text(other.to_json())
    with pytest.raises(TokenizerError, match=r"tokenizer\.path = "):
        load_checkpoint(checkpoint, tmp_path / "other.json")


def test_checkpoint_without_tokenization_settings_has_the_defaults(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    del config["tokenization"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert load_checkpoint(checkpoint)[0].config.tokenization == TokenizationSettings()


def test_checkpoint_of_before_the_static_residual_loads_and_is_written_again(checkpoint: Path) -> None:
    """An encoder without one has the files, and so the identity, that older versions gave it."""
    assert "static_residual" not in json.loads((checkpoint / "config.json").read_text())
    encoder, _ = load_checkpoint(checkpoint)
    assert encoder.config.static_residual is False
    assert encoder.static_projection is None


def test_static_residual_survives_a_round_trip(
    tmp_path: Path, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> None:
    original = seeded_encoder(encoder_config(static_residual=True, pooling="mean_last"), 0)
    save_checkpoint(tmp_path / "model", original, tokenizer)
    encoder, _ = load_checkpoint(tmp_path / "model")
    assert encoder.config.static_residual
    assert weights_fingerprint(encoder) == weights_fingerprint(original)
    edit_config(tmp_path / "model", static_residual=False)
    with pytest.raises(CheckpointError, match=r"static_projection\.weight is not part of this encoder"):
        load_checkpoint(tmp_path / "model")
    edit_config(tmp_path / "model", static_residual=True, pooling="mean")
    with pytest.raises(CheckpointError, match=r"static_projection\.weight is \[12, 8\] in the file, \[6, 8\] by"):
        load_checkpoint(tmp_path / "model")


def test_tokenization_settings_survive_a_round_trip(checkpoint: Path, tmp_path: Path) -> None:
    tokenization = TokenizationSettings(add_special_tokens=False, max_length=3, truncate=True)
    edit_config(checkpoint, tokenization=tokenization.model_dump())
    encoder, tokenizer = load_checkpoint(checkpoint)
    assert encoder.config.tokenization == tokenization
    save_checkpoint(tmp_path / "again", encoder, tokenizer)
    assert load_checkpoint(tmp_path / "again")[0].config.tokenization == tokenization


def test_truncate_without_max_length_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, tokenization={"truncate": True})
    with pytest.raises(ConfigError, match=r"tokenization\.truncate is true, but .* set max_length too"):
        load_checkpoint(checkpoint)
