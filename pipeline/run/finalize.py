"""The end of a run, whoever wrote its shards: check that the folder is whole, describe it, and say that it is complete.

A run on one machine, or on a cluster, ends so by itself. The parts of a divided run cannot, since none of them knows of
the others; for them `scripts/finalize_vectors.py` does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lengthwise import __version__
from lengthwise.config import EncoderConfig, RunConfig
from lengthwise.data.dataset import Source
from lengthwise.errors import StoreError
from lengthwise.run.identity import input_identity
from lengthwise.store.fingerprint import describe_changes, identity_hash
from lengthwise.store.folder import open_folder
from lengthwise.store.vectors import COUNTS, VectorStore, read_identity
from lengthwise.util.system import cpu_count
from lengthwise.util.threads import parallel_map


def finalize(store: VectorStore, run: RunConfig, identity: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Check that the folder has every row of the input, and write its card and manifest; returns the manifest.

    Raises:
        StoreError: shards are missing, or do not fit the input or each other.
    """
    return store.finish(rows, run.dataset.shard_rows, dataset_card(run, identity, store))


def finalize_folder(run: RunConfig, source: Source, *, verify: bool = True) -> dict[str, Any]:
    """The same for a folder whose shards others have written; no model is loaded.

    Args:
        verify: read all shards and compare their sha256.

    Raises:
        StoreError: the folder is none of this run's, is still written to, or is not complete or not right.
    """
    folder = open_folder(run.encode.output)
    identity = read_identity(folder)
    if identity is None:
        raise StoreError(f"{folder}: not a folder of vectors; encode first, or check encode.output")
    expected = {**identity, **input_identity(run, source.fingerprint)}
    if changes := describe_changes(identity, expected):
        raise StoreError(f"{folder}: holds the vectors of another run ({changes}); give the run that encoded them")
    with VectorStore.open(run.encode.output, identity, run.to_yaml(), bad_rows=run.encode.bad_rows) as store:
        if verify:
            damaged = [
                index
                for index, record in zip(
                    store.records, parallel_map(store.committed, store.records, cpu_count()), strict=True
                )
                if record is None
            ]
            for index in damaged:
                del store.records[index]
        return finalize(store, run, identity, source.count_rows())


def dataset_card(run: RunConfig, identity: Mapping[str, Any], store: VectorStore) -> str:
    """The README.md of a folder of vectors; its front matter lets `load_dataset(folder)` find the shards.

    The configuration is named after the run's identity, because `datasets` keeps its copy of a folder under the
    folder's and the configuration's names alone: were the configurations of all runs called alike, one run's vectors
    would be given for another's in a folder of the same name.
    """
    config = EncoderConfig.model_validate(identity["encoder"])
    training = "" if config.trained else f"\n\n**The encoder was never trained** (seed {config.seed})."
    counts = {name: sum(getattr(record, name) for record in store.records.values()) for name in COUNTS}
    layers = f"{config.num_layers} {'bidirectional ' if config.bidirectional else ''}LSTM layers of"
    provenance = [
        ("input", f"`{run.dataset.path}`, split `{run.dataset.split}`, column `{run.dataset.text_column}`"),
        ("input's fingerprint", f"`{identity['input']}`"),
        ("tokenizer's fingerprint", f"`{identity['tokenizer']}`"),
        ("weights' fingerprint", f"`{identity['weights']}`"),
        ("encoder", f"embedding {config.embedding_dim}, {layers} {config.hidden_size}, {config.pooling} pooling"),
        ("computed by", f"{identity['engine']}, Lengthwise {__version__}"),
        ("run's identity", f"`{identity_hash(identity)}`"),
    ]
    rows = "\n".join(f"| {what} | {value} |" for what, value in provenance)
    return f"""---
configs:
- config_name: "{store.identity[:16]}"
  data_files: data/*.parquet
---
# Vectors of `{run.dataset.path}`

{counts["rows"]:,} rows, one a row of the split `{run.dataset.split}`, in its order, in {len(store.records):,} shards.
`embedding` is the {config.dim}-dimensional {config.pooling}-pooled vector of the column `{run.dataset.text_column}`;
`num_tokens` is 0 where there was no text to encode, and `embedding` is then zeros; `truncated` says whether tokens
were cut off.{training}

{_flags(counts)}

## Provenance

| what | is |
| --- | --- |
{rows}

The configuration is in `run.yaml`, what the vectors depend on in `identity.json`, checksums in `manifest.json`.
"""


def _flags(counts: Mapping[str, int]) -> str:
    told = (
        f"{counts['tokens']:,} tokens. {counts['empty']:,} texts have no tokens, {counts['truncated']:,} are truncated,"
        f" {counts['bad']:,} rows could not be encoded ({counts['null']:,} of them null or not Unicode)"
    )
    if not counts["bad"]:
        return f"{told}."
    return f"{told}: their `embedding` is null, and they are in `quarantine/` with the reason, or it is zeros."
