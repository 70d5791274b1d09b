"""A WordNet of a few words, in the files of the real one."""

from __future__ import annotations

from pathlib import Path

_FILES = {
    "data.noun": """\
00000010 05 n 02 domestic_dog 0 dog 1 001 @ 00000012 n 0000 | a tame animal that barks; "the dog chased a cat"
00000011 05 n 02 dog 2 hot_dog 0 000 | a sausage in a roll
00000012 05 n 02 animal 0 beast 0 000 | a living thing that moves
00000013 18 n 02 teacher 0 instructor 0 000 | a person who teaches; "the teacher praised the pupil"
""",
    "data.verb": """\
00000020 38 v 02 chase 0 pursue 0 000 01 + 08 00 | go after; "the dog chased a cat"
00000021 32 v 02 praise 0 commend 0 000 01 + 08 00 | speak well of
""",
    "data.adj": """\
00000001 00 a 02 big 1 large 0 001 ! 00000002 a 0101 | above average ("huge" is more); "a big dog"; "large crowds"
00000002 00 a 02 small 1 little(a) 0 001 ! 00000001 a 0101 | below average in size
""",
    "data.adv": """\
00000030 02 r 01 quickly 0 000 | with speed
""",
    "index.noun": """\
animal n 1 1 @ 1 1 00000012
beast n 1 0 1 1 00000012
dog n 2 1 @ 2 1 00000010 00000011
domestic_dog n 1 1 @ 1 0 00000010
instructor n 1 0 1 1 00000013
teacher n 1 0 1 1 00000013
""",
    "index.verb": """\
chase v 1 0 1 1 00000020
commend v 1 0 1 1 00000021
praise v 1 0 1 1 00000021
pursue v 1 0 1 1 00000020
""",
    "index.adj": """\
big a 1 1 ! 1 1 00000001
large a 1 0 1 1 00000001
little a 1 0 1 1 00000002
small a 1 1 ! 1 1 00000002
""",
    "index.adv": "quickly r 1 0 1 1 00000030\n",
    "cntlist.rev": "dog%1:05:01:: 1 42\ndog%1:05:02:: 2 1\nbig%3:00:01:: 1 9\n",
}
TAGGED = (
    "the/at dog/nn chased/vbd the/at cat/nn ./.",
    "a/at teacher/nn praised/vbd the/at pupil/nn in/in school/nn ./.",
    "the/at instructor/nn commended/vbd and/cc pursued/vbd a/at big/jj dog/nn ./.",
    "large/jj animals/nns and/cc small/jj beasts/nns are/ber not/* little/jj ./.",
)


def write_wordnet(folder: Path) -> Path:
    """Write the files into a folder, with a licence before the data, and return it."""
    for name, text in _FILES.items():
        licence = "  1 This is a licence.\n" if name != "cntlist.rev" else ""
        (folder / name).write_text(licence + text, encoding="utf-8")
    return folder


def tagged_sentences(times: int = 6) -> list[list[tuple[str, str]]]:
    """Sentences of words and tags, each several times, so that their words are common."""
    sentences = [[(word, tag) for word, _, tag in (token.partition("/") for token in line.split())] for line in TAGGED]
    return sentences * times
