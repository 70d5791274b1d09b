"""Decides which folders a run may take vectors from: `encode.reuse`, and the cache at `encode.cache`.

- A vector depends on the text and the model alone, so kept columns, filters, the order of the rows, shards and batches
  are no reason to compute it again. Model, tokenizer, tokenization and engine are: each must be the same
  (`vector_identity`). Vectors in float16 stand for themselves only, those in float32 for both.
- Only an engine that gives a row the same bits in any batch can take part: with another one the files would differ from
  those of a full run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lengthwise.config import RunConfig, TokenizationSettings
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.reuse import Reuse
from lengthwise.store.cache import VectorCache, find_cached
from lengthwise.store.fingerprint import describe_changes
from lengthwise.store.previous import PreviousFolder
from lengthwise.util.system import cpu_model, package_versions

_MODEL = ("tokenizer", "encoder", "weights", "engine", *TokenizationSettings.model_fields)
log = logging.getLogger(__name__)


def open_reuse(config: RunConfig, identity: Mapping[str, Any], *, batch_invariant: bool) -> Reuse:
    """The folders of `encode.reuse` that can be used and the cache, and why the others cannot.

    Args:
        identity: the run's.
        batch_invariant: whether the engine is.

    Raises:
        ConfigError: a folder is the run's own output.
        StoreError: there is no folder of vectors.
    """
    usable: list[PreviousFolder] = []
    reasons: dict[str, str] = {}
    for url in config.encode.reuse:
        _check_is_no_output(config, "reuse", url)
        reason: str | None
        try:
            folder = PreviousFolder.open(url)
        except StoreError as error:
            reason = str(error)
        else:
            if folder is None:
                raise StoreError(f"{url}: not a folder of vectors; check encode.reuse")
            reason = _why_not(folder, config, identity, batch_invariant)
            if reason is None:
                usable.append(folder)
        if reason is not None:
            reasons[url] = reason
    cache = _open_cache(config, identity, batch_invariant, reasons)
    for url, reason in reasons.items():
        log.warning("no vector of %s is reused: %s", url, reason)
    half = [folder.identity.get("vector_dtype") == "float16" for folder in usable]
    return Reuse(usable, reasons, half=half, cache=cache)


def open_kept(url: str, config: RunConfig, identity: Mapping[str, Any], *, batch_invariant: bool) -> PreviousFolder:
    """The vectors that a run could take from a folder of vectors, or from a cache.

    Args:
        identity, batch_invariant: as for `open_reuse`.

    Raises:
        ConfigError: it could not take them, for the reason that is named.
        StoreError: there are none, or they cannot be read.
    """
    folder = PreviousFolder.open(url, "encode it again")
    if (reason := _why_never(config, batch_invariant)) is None and folder is not None:
        reason = _why_not(folder, config, identity, batch_invariant)
    if reason is not None:
        raise ConfigError(f"{url}: its vectors are not the run's: {reason}")
    return find_cached(url, cache_identity(identity)) if folder is None else folder


def _open_cache(
    config: RunConfig, identity: Mapping[str, Any], batch_invariant: bool, reasons: dict[str, str]
) -> VectorCache | None:
    """The run's cache; None if it has none, or one that cannot be used, whose reason is added to `reasons`."""
    url = config.encode.cache
    if url is None:
        return None
    _check_is_no_output(config, "cache", url)
    reason = _why_never(config, batch_invariant)
    try:
        cache = None if reason is not None else VectorCache(url, cache_identity(identity))
        if cache is not None:
            cache.read()
    except StoreError as error:
        cache, reason = None, str(error)
    if reason is not None:
        reasons[url] = reason
    return cache


def _check_is_no_output(config: RunConfig, setting: str, url: str) -> None:
    if _same_place(url, config.encode.output):
        raise ConfigError(
            f"encode.{setting} holds {url!r}, which is encode.output; choose another encode.output, so that the folder"
            " to reuse stays as it is"
        )


def cache_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a cached vector depends on: versions and the processor too, so that no run finds other bits than its own."""
    versions = package_versions(("lengthwise", "torch", "numpy", "llvmlite", "tokenizers"))
    return {**vector_identity(identity), "versions": versions, "processor": cpu_model()}


def vector_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's identity that a text's vector depends on, beside the text and the type it is stored in."""
    return {name: identity.get(name) for name in _MODEL}


def _why_not(
    folder: PreviousFolder, config: RunConfig, identity: Mapping[str, Any], batch_invariant: bool
) -> str | None:
    """Why no vector of a folder can stand for one of this run's; None if they can."""
    if "embedding" not in folder.identity.get("columns", ["embedding"]):
        return "it has no embeddings"
    if changes := describe_changes(vector_identity(folder.identity), vector_identity(identity)):
        return changes
    stored = folder.identity.get("vector_dtype"), config.encode.vector_dtype
    if stored[0] != stored[1] and stored[0] != "float32":
        return f"vector_dtype was {stored[0]}, is {stored[1]}"
    if (reason := _why_never(config, batch_invariant)) is not None:
        return reason
    if not folder.records:
        return "it has no committed shards"
    if not any(folder.has_hashes(index) for index in folder.records):
        return "it has neither hashes of its texts (encode.row_hashes) nor, as a kept column, the texts"
    return None


def _why_never(config: RunConfig, batch_invariant: bool) -> str | None:
    """Why this run reuses no vector at all; None if it may."""
    if list(config.encode.columns) != ["embedding"]:
        return "only embeddings are reused, and encode.columns has more"
    if not batch_invariant:
        return (
            "a vector of this engine depends on its batch in the last bits; install lengthwise[fast], or set"
            " encode.precision to int8"
        )
    return None


def _same_place(first: str, second: str) -> bool:
    if "://" in first or "://" in second:
        return first.rstrip("/") == second.rstrip("/")
    return Path(first).expanduser().resolve() == Path(second).expanduser().resolve()
