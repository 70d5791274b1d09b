"""Real texts (of WordNet, fortunes, packages, or the dataset of a run) and a byte-level BPE trained on them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lengthwise.config import TokenizerTraining, load_config
from lengthwise.data.dataset import open_dataset
from lengthwise.errors import DatasetError
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer

WORDNET, FORTUNES = Path("/usr/share/wordnet"), Path("/usr/share/games/fortunes")
VOCABULARY = 8_000


def load_corpus(name: str, rows: int | None = None) -> tuple[list[str], TextTokenizer]:
    """Texts by the corpus's name or a run's YAML file, and a tokenizer trained on all of them.

    Args:
        name: `glosses`, `fortunes`, `titles`, or a file.
        rows: size of a random sample, the same each time; all texts if None.

    Raises:
        DatasetError: the corpus is not installed.
    """
    if name == "glosses":
        texts = load_labelled_glosses()[0]
    elif name == "fortunes":
        texts = _fortunes()
    elif name == "titles":
        texts = _titles()
    else:
        texts = list(open_dataset(load_config(name).dataset).texts())
    tokenizer = train_tokenizer(texts, TokenizerTraining(vocab_size=VOCABULARY))
    order = np.random.default_rng(0).permutation(len(texts))[:rows]
    return [texts[row] for row in order], tokenizer


def write_rows(path: Path, texts: Sequence[str], rows: int) -> None:
    """Write `rows` rows as parquet: the texts repeated, with a number in front so that no row is a duplicate."""
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer:
        for number, start in enumerate(range(0, rows, len(texts))):
            some = texts[: rows - start]
            writer.write_table(pa.table({"text": [f"{number} {text}" for text in some]}))


def load_labelled_glosses() -> tuple[list[str], list[int]]:
    """WordNet's glosses, and the lexicographer file (0 to 44) of each: noun.animal, verb.motion and so on.

    Raises:
        DatasetError: WordNet is not installed.
    """
    lines = _gloss_lines()
    return [line.partition(" | ")[2].strip() for line in lines], [int(line.split(" ", 2)[1]) for line in lines]


def _gloss_lines() -> list[str]:
    files = [_read(WORDNET / f"data.{part}", "wordnet-base") for part in ("noun", "verb", "adj", "adv")]
    return [line for text in files for line in text.splitlines() if not line.startswith("  ")]  # which the licence does


def _fortunes() -> list[str]:
    files = sorted(path for path in FORTUNES.glob("*") if path.suffix == "" and not path.is_symlink())
    if not files:
        raise _missing("fortunes")
    parts: Sequence[str] = [part for path in files for part in re.split(r"\n%\n", _read(path, "fortunes"))]
    return [part.strip() for part in parts if part.strip()]


def _titles() -> list[str]:
    try:
        listing = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise DatasetError(
            f"the titles of Debian's packages cannot be listed ({error}); run apt-get update on Debian or Ubuntu, or"
            " give a run's YAML file as --corpus"
        ) from error
    return parse_titles(listing.decode("utf-8", "replace"))


def parse_titles(listing: str) -> list[str]:
    """The description of each package in one line, in a listing of `apt-cache dumpavail`; of the last version only."""
    titles: dict[str, str] = {}
    for package in listing.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in package.splitlines() if line[:1].isalpha() and ": " in line)
        title = fields.get("Description-en") or fields.get("Description")
        if title:
            titles[fields["Package"]] = title
    return list(titles.values())


def _read(path: Path, package: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise _missing(package) from None


def _missing(package: str) -> DatasetError:
    return DatasetError(
        f"the corpus is not installed: apt-get install {package}; or give a run's YAML file as --corpus"
    )
