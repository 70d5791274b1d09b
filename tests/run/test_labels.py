"""A run of a model with labels: the columns that it writes, beside the vectors or instead of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from helpers.runs import encode, run_config, source_of
from helpers.texts import TEXTS
from lengthwise import Encoder
from lengthwise.config import EncoderConfig, RunConfig, load_config
from lengthwise.encoder.model import PackedEncoder, seeded_encoder
from lengthwise.encoder.torch_engine import TorchEngine
from lengthwise.errors import ConfigError
from lengthwise.run.identity import run_identity
from lengthwise.run.labels import label_columns
from lengthwise.tokens.tokenizer import TextTokenizer

ALL = ["embedding", "predicted_label", "logits", "probabilities"]
LABELS = {"labels": ["animal", "weather", "sky"]}


@pytest.fixture(scope="module")
def labelled(encoder_config: Callable[..., EncoderConfig]) -> PackedEncoder:
    return seeded_encoder(EncoderConfig.model_validate({**encoder_config().model_dump(), "classifier": LABELS}), 2)


def read(folder: Path) -> dict[str, Any]:
    return pq.read_table(folder / "data").to_pydict()


def test_columns_of_labels_equal_the_api(labelled: PackedEncoder, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    config = run_config(tmp_path / "out", dataset={"shard_rows": 3}, encode={"columns": ALL})
    texts = [*TEXTS, ""]
    encode(config, source_of(texts, config), tokenizer, TorchEngine(labelled))
    found, encoder = read(tmp_path / "out"), Encoder(labelled, tokenizer)
    assert encoder.labels == ("animal", "weather", "sky")
    np.testing.assert_allclose(found["embedding"], encoder.encode(texts), atol=1e-6)
    np.testing.assert_allclose(found["logits"], encoder.logits(texts), atol=1e-6)
    np.testing.assert_allclose(found["probabilities"], encoder.probabilities(texts), atol=1e-6)
    assert found["predicted_label"] == encoder.predict(texts)
    assert found["num_tokens"][-1] == 0
    assert np.sum(found["probabilities"], axis=1) == pytest.approx(np.ones(len(texts)))
    one = [encoder.predict(text) for text in texts]
    assert one == found["predicted_label"]
    np.testing.assert_allclose(np.stack([encoder.logits(text) for text in texts]), found["logits"], atol=1e-6)
    loaded = datasets.load_dataset("parquet", data_dir=str(tmp_path / "out/data"), split="train")
    assert loaded.features["logits"].length == 3


def test_labels_are_written_instead_of_vectors(
    labelled: PackedEncoder, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    config = run_config(tmp_path / "out", encode={"columns": ["predicted_label"], "bad_rows": "quarantine"})
    encode(config, source_of(["moon", None, "cats"], config), tokenizer, TorchEngine(labelled))
    found = read(tmp_path / "out")
    assert list(found) == ["predicted_label", "num_tokens", "truncated"]
    assert [label is None for label in found["predicted_label"]] == [False, True, False]
    card = (tmp_path / "out/README.md").read_text()
    assert "`predicted_label` are of the column's labels, animal, weather, sky" in card
    assert "embedding" not in card.partition("## Provenance")[0]


def test_other_columns_are_another_run(labelled: PackedEncoder, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    engine, plain = TorchEngine(labelled), run_config(tmp_path / "out")
    source = source_of(TEXTS, plain)
    identity = run_identity(plain, source, tokenizer, engine)
    assert "columns" not in identity  # as of earlier versions
    with_labels = run_config(tmp_path / "out", encode={"columns": ALL})
    assert run_identity(with_labels, source, tokenizer, engine) == {**identity, "columns": ALL}
    assert "columns" not in yaml.safe_load(plain.to_yaml())["encode"]
    path = tmp_path / "run.yaml"
    path.write_text(with_labels.to_yaml())
    assert load_config(path) == with_labels


def test_labels_are_refused_where_there_are_none(
    labelled: PackedEncoder,
    tokenizer: TextTokenizer,
    encoder_config: Callable[..., EncoderConfig],
    tmp_path: Path,
) -> None:
    without = seeded_encoder(encoder_config(), 0)
    config = run_config(tmp_path / "out", encode={"columns": ["logits"]})
    with pytest.raises(ConfigError, match=r"encode\.columns holds logits, but the model has no labels"):
        encode(config, source_of(TEXTS, config), tokenizer, TorchEngine(without))
    config = run_config(tmp_path / "out", dataset={"keep_columns": ["logits"]}, encode={"columns": ["logits"]})
    source = source_of(TEXTS, config, logits=list(range(len(TEXTS))))
    with pytest.raises(ConfigError, match=r"dataset\.keep_columns holds logits, which encode\.columns writes too"):
        encode(config, source, tokenizer, TorchEngine(labelled))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="the model has no labels"):
        Encoder(without, tokenizer).predict("moon")
    assert Encoder(without, tokenizer).labels == ()
    for columns, message in ((["logits", "logits"], "names a column twice"), ([], "columns"), (["label"], "columns.0")):
        with pytest.raises(ValidationError, match=message):
            run_config(tmp_path / "out", encode={"columns": columns})


def test_rows_that_are_not_finite_get_the_labels_of_zeros(labelled: PackedEncoder) -> None:
    classifier = TorchEngine(labelled).classifier
    assert classifier is not None
    vectors = np.zeros((2, labelled.config.dim), np.float32)
    expected = label_columns(ALL, classifier, vectors)
    vectors[1, 0] = np.nan
    found = label_columns(ALL, classifier, vectors)
    assert list(found) == ALL[1:]
    np.testing.assert_array_equal(found["logits"], expected["logits"])


def test_the_default_is_the_embedding_alone() -> None:
    config = RunConfig.model_validate({"dataset": {"path": "a"}, "model": {"path": "b"}})
    assert config.encode.columns == ("embedding",)
