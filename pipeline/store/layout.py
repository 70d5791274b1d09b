"""The files of a folder of vectors, by their names relative to the folder.

    README.md             dataset card: `load_dataset(folder)` finds the shards by it
    run.yaml              the resolved configuration
    identity.json         what the vectors depend on, and its hash
    reuse.json            which folders vectors were taken from, and why none of others, if a run was to reuse some
    input.json            which files the rows are of, and which rows were added together
    precision.json        what encode.precision auto measured and chose, if it did
    shards.jsonl          log: one record per committed shard
    manifest.json         totals; written last, so its presence means that the run is complete
    report.md, .png       report of the last run that encoded something
    data/shard-000000.parquet ...
    quarantine/shard-000000.jsonl ...   rows that could not be encoded, where there are any
    hashes/shard-000000.npy ...   uint8[rows, 16], a hash of each row's text, where a run asks for it
    changes/summary.json, added.parquet ...   what has changed since the folder of encode.reuse, where a run has a key
    index/record.json, centroids.faiss, segment-000000.faiss ...   an approximate index, where a search built one

Shards have a subfolder to themselves, so that pandas, polars and DuckDB can read it as it is.
"""

from __future__ import annotations

import re

from lengthwise.store.parts import Part
from lengthwise.util.files import PARTIAL_SUFFIX

DATA, QUARANTINE, HASHES = "data", "quarantine", "hashes"
CARD, RUN, IDENTITY, RECORDS, MANIFEST = "README.md", "run.yaml", "identity.json", "shards.jsonl", "manifest.json"
INPUT, PRECISION = "input.json", "precision.json"
REUSE = "reuse.json"
CHANGES = "changes"
ADDED, REMOVED, CHANGED, SUMMARY = "added.parquet", "removed.parquet", "changed.parquet", "summary.json"  # in it
CHANGES_SUMMARY = f"{CHANGES}/{SUMMARY}"
REPORT, REPORT_FIGURE = "report.md", "report.png"
INDEX = "index"
INDEX_RECORD, INDEX_CENTROIDS = f"{INDEX}/record.json", f"{INDEX}/centroids.faiss"
LOCK = ".lock"
INDEX_LOCK = f"{LOCK}-{INDEX}"
LOG_SUFFIX = ".jsonl"  # of the files, directly in the folder, that lines are appended to
_LOG = re.compile(r"shards(-\d+-of-\d+)?\.jsonl")
_OWN = re.compile(
    r"README\.md|run\.yaml|(identity|input|reuse|precision|manifest)\.json|report\.(md|png)|shards(-\d+-of-\d+)?\.jsonl"
    r"|data/shard-\d+\.parquet|quarantine/shard-\d+\.jsonl|hashes/shard-\d+\.npy"
    r"|changes/((added|removed|changed)\.parquet|summary\.json)"
    r"|index/(record\.json|centroids\.faiss|segment-\d+\.faiss)"
)
_DRAFT = re.compile(rf"\..+\.[0-9a-f]{{8}}{re.escape(PARTIAL_SUFFIX)}")  # as `replace_file` names them


def shard_file(index: int) -> str:
    """The parquet file of a shard."""
    return f"{DATA}/shard-{index:06d}.parquet"


def quarantine_file(index: int) -> str:
    """The file with the rows of a shard that could not be encoded."""
    return f"{QUARANTINE}/shard-{index:06d}.jsonl"


def hashes_file(index: int) -> str:
    """The file with the hashes of a shard's texts."""
    return f"{HASHES}/shard-{index:06d}.npy"


def index_segment(number: int) -> str:
    """The file of a segment of an index."""
    return f"{INDEX}/segment-{number:06d}.faiss"


def log_file(part: Part | None) -> str:
    """The log of records that a part of a divided run writes; without a part, the whole run's."""
    return RECORDS if part is None else f"shards-{part}{LOG_SUFFIX}"


def lock_file(part: Part | None) -> str:
    """The lock that a part of a divided run holds; without a part, the whole run's."""
    return LOCK if part is None else f"{LOCK}-{part}"


def is_log(name: str) -> bool:
    """Whether a file is a log of records, a run's or a part's."""
    return _LOG.fullmatch(name) is not None


def is_draft(name: str) -> bool:
    """Whether a file is one that a crash left half-written."""
    return _DRAFT.fullmatch(name.rpartition("/")[2]) is not None


def is_own(name: str) -> bool:
    """Whether a file is the store's own to remove: one of those above, or a draft of one."""
    return _OWN.fullmatch(name) is not None or is_draft(name)
