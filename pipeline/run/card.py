"""The dataset card of a folder of vectors."""

from __future__ import annotations

from lengthwise import __version__
from lengthwise.config import EncoderConfig, RunConfig
from lengthwise.store.records import Totals
from lengthwise.store.vectors import VectorStore


def dataset_card(config: RunConfig, store: VectorStore, *, is_appended: bool = False) -> str:
    """The README.md of a folder of vectors; its front matter lets `load_dataset(folder)` find the shards.

    The configuration is named after the run's identity, because `datasets` caches a folder under the folder's and the
    configuration's names alone: with one name for all runs, one run's vectors would be loaded for another's in a folder
    of the same name.
    """
    identity, dataset, totals = store.identity, config.dataset, store.totals()
    encoder = EncoderConfig.model_validate(identity["encoder"])
    training = "" if encoder.trained else f"\n\n**The encoder was never trained** (seed {encoder.seed})."
    residual = ", static residual" if encoder.static_residual else ""
    layers = f"{encoder.num_layers} {'bidirectional ' if encoder.bidirectional else ''}{encoder.cell.upper()} layers of"
    provenance = [
        ("input", f"`{dataset.path}`, split `{dataset.split}`, column `{dataset.text_column}`"),
        ("input's fingerprint", f"`{identity['input']}`"),
        ("tokenizer's fingerprint", f"`{identity['tokenizer']}`"),
        ("weights' fingerprint", f"`{identity['weights']}`"),
        (
            "encoder",
            f"embedding {encoder.embedding_dim}, {layers} {encoder.hidden_size}, {encoder.pooling} pooling{residual}",
        ),
        ("computed by", f"{identity['engine']}, Lengthwise {__version__}"),
        ("run's identity", f"`{store.identity_hash}`"),
    ]
    rows = "\n".join(f"| {name} | {value} |" for name, value in provenance)
    order = "in the order in which they were added" if is_appended else "in its order"
    return f"""---
configs:
- config_name: "{store.identity_hash[:16]}"
  data_files: data/*.parquet
---
# Vectors of `{dataset.path}`

{totals.rows:,} rows, one per row of the split `{dataset.split}`, {order}, in {len(store.records):,} shards.
{_column_sentences(config, encoder)}
`num_tokens` is 0 where there was no text to encode, and its vector is then zeros; `truncated` says whether tokens
were cut off.{training}

{_describe_totals(totals, config)}

## Provenance

| what | value |
| --- | --- |
{rows}

The configuration is in `run.yaml`, what the vectors depend on in `identity.json`, checksums in `manifest.json`.
"""


def _column_sentences(config: RunConfig, encoder: EncoderConfig) -> str:
    found, column = [], config.dataset.text_column
    if "embedding" in config.encode.columns:
        kind = f"{encoder.dim}-dimensional {encoder.pooling}-pooled vector"
        found.append(f"`embedding` is the {kind} of the column `{column}`;")
    of_labels = [f"`{name}`" for name in config.encode.columns if name != "embedding"]
    if of_labels:
        found.append(f"{', '.join(of_labels)} are of the column's labels, {', '.join(encoder.labels[:20])};")
    return "\n".join(found)


def _describe_totals(totals: Totals, config: RunConfig) -> str:
    text = (
        f"{totals.tokens:,} tokens. {totals.empty:,} texts have no tokens, {totals.truncated:,} are truncated,"
        f" {totals.bad:,} rows could not be encoded ({totals.null:,} of them null or not Unicode)"
    )
    if not totals.bad:
        return f"{text}."
    columns = ", ".join(f"`{name}`" for name in config.encode.columns)
    verb = "is" if len(config.encode.columns) == 1 else "are"
    return f"{text}: their {columns} {verb} null, and they are in `quarantine/` with the reason, or it is zeros."
