"""docs/encoders.md: its YAML makes encoders, and it names every setting and every part."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from helpers.pages import code_blocks, read_page
from lengthwise.config import EncoderSettings, load_config
from lengthwise.encoder.checkpoint import create_checkpoint, load_checkpoint
from lengthwise.encoder_config import POOLING_PARTS, Activation, GateActivation
from lengthwise.tokens.tokenizer import TextTokenizer

PAGE = read_page("docs/encoders.md")
BLOCKS = code_blocks(PAGE, "yaml")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_yaml_makes_an_encoder(number: int, tmp_path: Path, tokenizer: TextTokenizer) -> None:
    run = {"dataset": {"path": "a.txt"}, **yaml.safe_load(BLOCKS[number])}
    run["model"]["path"] = str(tmp_path / "model")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    init = load_config(tmp_path / "run.yaml").model.init
    create_checkpoint(tmp_path / "model", tokenizer, init)
    encoder, _ = load_checkpoint(tmp_path / "model")
    assert encoder.config.model_dump(include=set(EncoderSettings.model_fields)) == init.model_dump()
    assert init != EncoderSettings()


def test_every_setting_and_part_is_named() -> None:
    assert len(BLOCKS) == 3
    later = EncoderSettings.model_fields.keys() - {"embedding_dim"}
    for name in (*later, *POOLING_PARTS, *get_args(Activation), *get_args(GateActivation)):
        assert f"`{name}`" in PAGE, name
