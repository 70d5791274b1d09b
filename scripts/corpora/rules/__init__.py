"""Triples made by rule: a text, the same meaning in other words, and another meaning in the same words.

- A rule is a pair of lists of frames, kept in `tables/*.txt`: the frames of a list mean the same, and the two lists do
  not. Anchor and positive come from one list, the negative from the other.
- What fills a frame is typed (persons, things, places, deeds, clauses), so that sentences are sensible.
- Nothing was copied from an evaluation set.
"""
