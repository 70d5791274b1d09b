"""All triples: those of frames, of events and of real sentences, mixed in fixed shares, each text of an anchor once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from lengthwise.cli.corpora.clean import is_held_out
from lengthwise.cli.corpora.rules.events import event_groups
from lengthwise.cli.corpora.rules.frames import Group, Triple, load_groups, make_triple
from lengthwise.cli.corpora.rules.opposed import opposed_groups
from lengthwise.cli.corpora.rules.real import RealSentences

TABLES = (
    "transfer",
    "comparing",
    "order",
    "space",
    "negation",
    "opposites",
    "binding",
    "symmetric",
    "queries",
    "verbs",
)
SHARES = (0.6, 0.3, 0.1)  # of groups of frames, events, and verbs with opposites
_MAX_DRAWS = 10_000  # without a new triple


def framed_triples(count: int, seed: int) -> Iterator[tuple[Triple, str]]:
    """`count` triples of frames, as `draw_triples` draws them."""
    groups = [group for table in TABLES for group in load_groups(f"frames_{table}")]
    kinds = (groups, list(event_groups()), list(opposed_groups()))
    return draw_triples(kinds, count, Random(f"frames {seed}"))


def draw_triples(kinds: Sequence[Sequence[Group]], count: int, rng: Random) -> Iterator[tuple[Triple, str]]:
    """Triples and the name of the group of each, no two with the same anchor and negative.

    There are `count`, or fewer where thousands of draws in a row give none that is new.

    Args:
        kinds: groups by their kinds, whose shares are `SHARES`.
    """
    seen: set[tuple[str, str]] = set()
    draws = 0  # since the last new one
    while len(seen) < count and draws < _MAX_DRAWS:
        (kind,) = rng.choices(kinds, SHARES)
        group = rng.choice(kind)
        triple = make_triple(group, rng)
        draws += 1
        if triple and (triple.anchor, triple.negative) not in seen and not any(is_held_out(text) for text in triple):
            seen.add((triple.anchor, triple.negative))
            draws = 0
            yield triple, group.name


def real_triples(
    sentences: Sequence[tuple[str, str]], maker: RealSentences, seed: int, tries: int = 2
) -> Iterator[tuple[Triple, str]]:
    """Triples of real sentences, given with their source; up to `tries` different ones of each."""
    rng = Random(f"real {seed}")
    for text, source in sentences:
        made = {maker.triple(text, rng) for _ in range(tries)}
        for triple in sorted(triple for triple in made if triple):
            if not any(is_held_out(side) for side in triple):
                yield triple, source
