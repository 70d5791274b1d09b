"""Dictionaries as Debian packages them: words, and definitions without marks, etymology and quotations."""

from __future__ import annotations

import gzip
from pathlib import Path

from lengthwise.cli.corpora import dictionaries
from lengthwise.cli.corpora.dictionaries import Entry

GCIDE = r"""00-database-info
   A dictionary.

Abdomen \Ab*do"men\, n. [L. abdomen (a word of uncertain
   etymol.): cf. F. abdomen.]
   1. (Anat.) The belly, or that part of the body between the
      thorax and the pelvis.
      [1913 Webster]

   2. (Zool.) The posterior section of the body, behind the
      {thorax}, in insects.
      [1913 Webster]

            Some verse.                           --Milton.
      [1913 Webster]

Abditory \Ab"di*to*ry\, n. [L. abditorium.]
   A place for hiding articles of value. --Cowell.
   [1913 Webster]
"""
FOLDOC = """00-database-info

actor

   1. <programming> In {object-oriented} programming, an {object}
   which exists as a process.

   2. <operating system> In {Chorus}, the unit of allocation.

   (1994-11-08)
"""
THESAURUS = """UTF-8
dog|2
(noun)|hound|animal (generic term)|cat (antonym)
(verb)|chase|trail
cat|1
(noun)|true cat
"""


def write(folder: Path, name: str, text: str) -> Path:
    (folder / "usr/share/dictd").mkdir(parents=True)
    (folder / f"usr/share/dictd/{name}.dict.dz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_gcide(tmp_path: Path) -> None:
    assert list(dictionaries.gcide(write(tmp_path, "gcide", GCIDE))) == [
        Entry("abdomen", "The belly, or that part of the body between the thorax and the pelvis."),
        Entry("abdomen", "The posterior section of the body, behind the thorax, in insects."),
        Entry("abditory", "A place for hiding articles of value."),
    ]


def test_foldoc(tmp_path: Path) -> None:
    assert list(dictionaries.foldoc(write(tmp_path, "foldoc", FOLDOC))) == [
        Entry("actor", "In object-oriented programming, an object which exists as a process."),
        Entry("actor", "In Chorus, the unit of allocation."),
    ]


def test_devil(tmp_path: Path) -> None:
    text = "\nAIM, n.  The task we set\nour wishes to.\n\n    A verse.\n\n"
    assert list(dictionaries.devil(write(tmp_path, "devil", text))) == [Entry("aim", "The task we set our wishes to.")]


def test_elements(tmp_path: Path) -> None:
    text = "helium\nSymbol: He\nAtomic number: 2\nAtomic weight: 4.0026\nColourless,\nodourless gas.\n"
    assert list(dictionaries.elements(write(tmp_path, "elements", text))) == [
        Entry("helium", "Colourless, odourless gas.")
    ]


def test_thesaurus_gives_plain_synonyms_alone(tmp_path: Path) -> None:
    (tmp_path / "usr/share/mythes").mkdir(parents=True)
    (tmp_path / "usr/share/mythes/th_en_US_v2.dat").write_text(THESAURUS)
    assert list(dictionaries.thesaurus(tmp_path)) == [
        ("dog", "noun", ("hound",)),
        ("dog", "verb", ("chase", "trail")),
        ("cat", "noun", ("true cat",)),
    ]


def test_word_lists_give_words_without_flags_and_possessives(tmp_path: Path) -> None:
    path = tmp_path / "en_med.dic"
    lines = ["7", "    A list for a test", "carotenoid/S", "Buren's", "hand's", "anti-emetic", "Sjögren", "1α", "B"]
    path.write_text("\n".join(lines))
    assert list(dictionaries.words(path)) == ["carotenoid", "anti-emetic", "Sjögren"]
