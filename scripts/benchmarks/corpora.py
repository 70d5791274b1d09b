"""Real texts: WordNet's glosses, fortunes, or a run's own dataset; and a tokenizer trained on the glosses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.config import TokenizerTraining, load_config
from pipeline.dataset import open_dataset
from pipeline.errors import DatasetError
from pipeline.files import write_atomically
from pipeline.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

WORDNET, FORTUNES = Path("/usr/share/wordnet"), Path("/usr/share/games/fortunes")
VOCABULARY = 8_000


def load_corpus(name: str, rows: int | None = None) -> list[str]:
    """Texts by the corpus's name (`glosses`, `fortunes`) or a run's YAML file; some of them in an order of chance.

    Raises:
        DatasetError: the corpus is not installed.
    """
    if name == "glosses":
        texts = _glosses()
    elif name == "fortunes":
        texts = _fortunes()
    else:
        texts = list(open_dataset(load_config(name).dataset).texts())
    order = np.random.default_rng(0).permutation(len(texts))[:rows]
    return [texts[row] for row in order]


def benchmark_tokenizer(folder: Path) -> TextTokenizer:
    """Byte-level BPE over the glosses; trained once and kept in `folder`."""
    path = folder / "tokenizer.json"
    if not path.exists():
        tokenizer = train_tokenizer(_glosses(), TokenizerTraining(vocab_size=VOCABULARY))
        write_atomically(path, tokenizer.to_json().encode())
    return load_tokenizer(path)


def _glosses() -> list[str]:
    texts = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in _read(WORDNET / f"data.{part}", "wordnet-base").splitlines():
            if not line.startswith("  "):  # the licence
                texts.append(line.partition(" | ")[2].strip())
    return texts


def _fortunes() -> list[str]:
    files = sorted(path for path in FORTUNES.glob("*") if path.suffix == "" and not path.is_symlink())
    if not files:
        raise _missing("fortunes")
    parts: Sequence[str] = [part for path in files for part in re.split(r"\n%\n", _read(path, "fortunes"))]
    return [part.strip() for part in parts if part.strip()]


def _read(path: Path, package: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise _missing(package) from None


def _missing(package: str) -> DatasetError:
    return DatasetError(
        f"the corpus is not installed: apt-get install {package}; or give a run's YAML file as --corpus"
    )
