"""The teacher's vectors on disk: made once, found by text, kept after an interruption or damage."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import lengthwise.training.cache as module
from lengthwise.errors import RunError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.training.cache import TeacherCache, text_keys
from lengthwise.training.progress import Bars

TEXTS = [f"text {number} {'x' * (number % 7)}" for number in range(50)]


class CountingTeacher:
    """Vectors of a text's length and its last letters, and which texts were asked for."""

    name, fingerprint = "counting", "0"

    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.fail_after = fail_after

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked.extend(texts)
        return np.array([vector_of(text) for text in texts], np.float32)

    def load_tokenizer(self) -> TextTokenizer:
        raise NotImplementedError

    def word_embeddings(self) -> None:
        return None

    def token_vectors(self, bars: Bars = Bars()) -> NDArray[np.float32]:
        self.asked.append("tokens")
        return np.ones((5, 3), np.float32)


def vector_of(text: str) -> list[float]:
    return [float(len(text)), float(sum(map(ord, text)) % 97), 0.5]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_ROWS", 8)


def taken(cache: TeacherCache, texts: Sequence[str]) -> NDArray[np.float32]:
    positions = cache.find(text_keys(texts))
    assert (positions >= 0).all()
    return cache.take(positions)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_each_text_is_encoded_once(tmp_path: Path, dtype: str) -> None:
    teacher = CountingTeacher()
    cache = TeacherCache(tmp_path, teacher, dtype)
    cache.fill([*TEXTS, *TEXTS[:9]])
    assert sorted(teacher.asked) == sorted(["a", *TEXTS])
    np.testing.assert_array_equal(taken(cache, TEXTS[::-1]), [vector_of(text) for text in TEXTS[::-1]])
    assert taken(cache, TEXTS).dtype == np.float32
    again = TeacherCache(tmp_path, teacher, dtype)
    again.fill([*TEXTS, "new"])
    assert teacher.asked[51:] == ["new"]
    assert len(again) == 51


def test_unknown_text_has_no_position(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, CountingTeacher(), "float32")
    assert cache.find(text_keys(["never"])).tolist() == [-1]


def test_other_teachers_and_types_are_kept_apart(tmp_path: Path) -> None:
    teacher, other = CountingTeacher(), CountingTeacher()
    other.fingerprint = "1"
    folders = {
        TeacherCache(tmp_path, each, kind).folder for each in (teacher, other) for kind in ("float16", "float32")
    }
    assert len(folders) == 4


def test_interrupted_filling_goes_on(tmp_path: Path) -> None:
    first = CountingTeacher(fail_after=17)
    cache = TeacherCache(tmp_path, first, "float32")
    with pytest.raises(KeyboardInterrupt):
        cache.fill(TEXTS)
    kept = first.asked[1:]
    assert len(kept) == 16
    second = CountingTeacher()
    cache = TeacherCache(tmp_path, second, "float32")
    cache.fill(TEXTS)
    assert sorted(second.asked) == sorted(set(TEXTS) - set(kept))
    np.testing.assert_array_equal(taken(cache, TEXTS), [vector_of(text) for text in TEXTS])


@pytest.mark.parametrize("suffix", [".vectors.npy", ".keys.npy"])
@pytest.mark.parametrize("keep", [0, 30, -3])
def test_damaged_shard_is_encoded_again(
    tmp_path: Path, suffix: str, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TeacherCache(tmp_path, CountingTeacher(), "float32")
    cache.fill(TEXTS)
    damaged = sorted(cache.folder.glob(f"*{suffix}"))[0]
    damaged.write_bytes(damaged.read_bytes()[:keep])
    teacher = CountingTeacher()
    with caplog.at_level(logging.WARNING):
        again = TeacherCache(tmp_path, teacher, "float32")
    assert "its texts are encoded again" in caplog.text
    again.fill(TEXTS)
    assert 1 <= len(teacher.asked) <= 8
    np.testing.assert_array_equal(taken(again, TEXTS), [vector_of(text) for text in TEXTS])


def test_vectors_of_tokens_are_made_once(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    for _ in range(2):
        found = TeacherCache(tmp_path, teacher, "float16").token_vectors()
        assert found is not None
        assert found.tolist() == [[1, 1, 1]] * 5
    assert teacher.asked == ["a", "tokens"]


def test_long_texts_come_first(tmp_path: Path) -> None:
    teacher = CountingTeacher()
    cache = TeacherCache(tmp_path, teacher, "float32")
    cache.fill(TEXTS[:10])
    teacher.asked.clear()
    cache.fill(TEXTS)
    sizes = list(map(len, teacher.asked))
    assert sizes == sorted(sizes, reverse=True)


def test_value_beyond_the_type_is_refused(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, CountingTeacher(), "float16")
    with pytest.raises(RunError, match=r"no float16 numbers, for the text 'x+'; set train\.teacher_dtype to float32"):
        cache.fill(["x" * 70_000])
