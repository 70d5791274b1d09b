"""Texts out of packages: one line each, cut at sentences, English, never one that is held out."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.cli.corpora.clean import MAX_WORDS, chunks, clean, is_english, is_held_out, sentences, unique

WORDS = ["one", "two.", "Three", "four!", "Five?", "six,"]


def test_entities_addresses_and_spaces() -> None:
    assert clean("  a &amp; b,\n\tsee https://example.org/x?y=1 or  www.example.org ") == "a & b, see or"


def test_sentences_end_at_full_stops_but_not_after_abbreviations() -> None:
    text = 'Mr. Smith came at 3 p.m. on Monday. "Why?" he asked. J. Brown did not know.'
    assert list(sentences(text)) == [
        "Mr. Smith came at 3 p.m. on Monday.",
        '"Why?" he asked.',
        "J. Brown did not know.",
    ]


@given(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=80),
    st.integers(1, 9),
)
def test_chunks_hold_words_in_order_and_at_most_so_many(words: list[str], most: int) -> None:
    made = list(chunks(" ".join(words), most))
    assert made
    assert all(1 <= len(chunk.split()) <= most for chunk in made)
    remaining = iter(words)
    assert all(word in remaining for chunk in made for word in chunk.split())


def test_short_sentences_share_a_chunk() -> None:
    assert list(chunks("It rains. We stay. They go out for a walk.", 5)) == ["It rains. We stay.", "They go out for a"]
    assert MAX_WORDS == 60


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("a small dog", True),
        ("dog", False),
        ("привет мир как дела", False),
        ("0x00 0xff 12 34 -> a b", False),
        ("the cat sat on the mat and it was there for an hour with all of them", True),
        ("der Hund jagte die Katze durch den Garten und dann sprang sie schnell auf einen Baum", False),
    ],
)
def test_what_counts_as_english(text: str, english: bool) -> None:
    assert is_english(text) is english


def test_one_text_in_twenty_is_held_out() -> None:
    texts = [f"text {number}" for number in range(4000)]
    held_out = [text for text in texts if is_held_out(text)]
    assert 140 < len(held_out) < 260
    assert all(int(hashlib.sha256(text.encode()).hexdigest(), 16) % 20 == 0 for text in held_out)
    assert all(is_held_out(f" {text}\n") for text in held_out)


def test_repeats_differ_only_in_case_and_punctuation() -> None:
    seen: set[bytes] = set()
    assert list(unique(["A dog.", "a  dog", "a dog!", "two dogs"], seen)) == ["A dog.", "two dogs"]
    assert list(unique(["A DOG", "three"], seen)) == ["three"]
