"""Vocabularies as tokenizers: the ids that the model was trained with, and settings that say otherwise are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lengthwise.errors import LengthwiseError
from lengthwise.formats.mapping import TokensMapping
from lengthwise.formats.vocabulary import import_tokenizer
from lengthwise.util.settings import parse_settings

NAMED = ["<pad>", "<unk>", "cat", "sat"]


def ids(folder: Path, text: str, rows: int = 4, notes: list[str] | None = None, **settings: Any) -> list[int]:
    mapping = parse_settings(TokensMapping, settings, "tokens")
    tokenizer, _, _ = import_tokenizer(mapping, folder, None, rows, [] if notes is None else notes)
    return tokenizer.encode_batch([text])[0].ids


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(LengthwiseError) as raised:
        ids(folder, "", **settings)
    return str(raised.value)


def test_files_may_have_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes("\r\n".join([*NAMED, ""]).encode())
    assert ids(tmp_path, "cat sat", vocabulary="words.txt", unknown=1) == [2, 3]


def test_a_vocabulary_that_no_text_leads_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("<pad> 0\n<unk> 1\ncat 5\nsat 7\n")
    message = refusal(tmp_path, vocabulary="words.txt", unknown=1)
    assert "no text leads to 3 of 3 tokens, such as '<pad> 0', which becomes the ids [1, 1] and not 0" in message
    assert "give one token per line" in message
    capitals = ["<unk>", "Cat", "Sat", "Mat"]
    assert "such as 'Cat'" in refusal(tmp_path, tokens=capitals, unknown=0, clean=["lowercase"])
    notes: list[str] = []
    assert ids(tmp_path, "new york", 5, notes, tokens=["<pad>", "new york", "cat", "sat", "mat"], unknown=0) == [0, 0]
    assert notes == [
        "tokens: no text leads to 1 of 4 tokens, such as 'new york', which becomes the ids [0, 0]",
        "tokens: no token has a capital letter, and texts keep theirs; set clean: [lowercase] if that is so",
    ]


def test_an_empty_token_is_not_the_unknown_one(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n<unk>\ncat\nsat\n")
    assert ids(tmp_path, "cat xyz sat", vocabulary="words.txt", padding=0) == [2, 3]


def test_invented_names_are_no_words(tmp_path: Path) -> None:
    tokens = {"tokens": ["<pad>", "cat"], "unknown": 2, "end": 3}
    assert ids(tmp_path, "cat [END] [UNKNOWN]", **tokens) == [1, 2, 2]


def test_accents_are_stripped_off_whole_characters(tmp_path: Path) -> None:
    cafe = ["<pad>", "<unk>", "cafe", "sat"]
    assert ids(tmp_path, "café", tokens=cafe, unknown=1, clean=["strip_accents"]) == [2]


def test_words_of_a_pattern_may_have_spaces(tmp_path: Path) -> None:
    words = ["<pad>", "new york", "x", "york"]
    assert ids(tmp_path, "new york x y", tokens=words, pattern="new york|x|york|y") == [1, 2]


def test_patterns_are_those_of_python(tmp_path: Path) -> None:
    text = "हिन्दी भाषा"
    words = [*NAMED[:2], *dict.fromkeys(re.findall(r"\w+", text))]
    expected = [words.index(word) for word in re.findall(r"\w+", text)]
    assert ids(tmp_path, text, len(words), tokens=words, unknown=1, pattern=r"\w+") == expected
    bare = re.sub(r"[^\w\s]", "", "हिन्दी!")
    clean = [{"pattern": r"[^\w\s]"}]
    assert ids(tmp_path, "हिन्दी!", 3, tokens=[*NAMED[:2], bare], unknown=1, clean=clean) == [2]
    message = refusal(tmp_path, tokens=NAMED, unknown=1, clean=[{"pattern": "([.!?])", "by": r" \1 "}])
    assert "match only what is replaced" in message
    punctuation = [*NAMED, "!", "."]
    spaced = [{"pattern": "(?=[.!?])|(?<=[.!?])", "by": " "}]
    assert ids(tmp_path, "cat!sat.", 6, tokens=punctuation, unknown=1, clean=spaced) == [2, 4, 3, 5]


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    mapping = parse_settings(TokensMapping, {"tokens": NAMED, "unknown": 1}, "tokens")
    tokenizer, _, _ = import_tokenizer(mapping, tmp_path, None, 4, [])
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    (tmp_path / "ids.json").write_text(json.dumps({word: number for number, word in enumerate(NAMED)}))
    assert ids(tmp_path, "cat", tokenizer="tokenizer.json") == [2]
    for name, value in (("clean", ["lowercase"]), ("start", 2), ("unit", "characters"), ("vocabulary", "ids.json")):
        assert f"{name} has no effect beside tokenizer" in refusal(
            tmp_path, tokenizer="tokenizer.json", **{name: value}
        )
    assert "names 4 of the 300 rows" in refusal(tmp_path, rows=300, tokenizer="tokenizer.json")
    assert "key has no effect beside tokens" in refusal(tmp_path, tokens=NAMED, key="words")
    assert "unit is characters" in refusal(tmp_path, tokens=NAMED, unit="characters", pattern="[ab]")
    assert "tokens.first_id has no effect" in refusal(tmp_path, vocabulary="ids.json", first_id=1)
