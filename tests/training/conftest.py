"""Fixtures of the tests of training: a folder with a tokenizer, a teacher and rows of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.students import DIM, WORDS, make_texts, save_teacher, write_rows
from lengthwise.tokens.tokenizer import TextTokenizer

ROWS = 240


@pytest.fixture
def place(tmp_path: Path, tokenizer: TextTokenizer) -> Path:
    """A folder with tokenizer.json, teacher/ and rows.parquet, which has columns for every kind of source."""
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    save_teacher(tmp_path / "teacher", tokenizer)
    texts = make_texts(ROWS)
    reversed_texts = [" ".join(reversed(text.split())) for text in texts]
    draw = np.random.default_rng(0)
    directions = {word: draw.normal(size=DIM) for word in WORDS}
    write_rows(
        tmp_path / "rows.parquet",
        text=texts,
        anchor=texts,
        positive=[f"{text} rain" for text in texts],
        negative=[text if number % 3 else None for number, text in enumerate(reversed_texts)],
        embedding=[sum(map(directions.get, text.split())) for text in texts],
        label=["cat" if "cat" in text else "none" for text in texts],
    )
    return tmp_path
