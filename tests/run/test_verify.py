"""A random sample of vectors that are kept is encoded again, and each bit compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.engines import LookupEngine
from helpers.runs import encode, run_config, source_of
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, RunConfig
from lengthwise.errors import ConfigError, StoreError
from lengthwise.run.verify import SampleReport, verify_sample
from lengthwise.tokens.tokenizer import TextTokenizer

MANY: list[str | None] = [f"{first} {second}" for first in TEXTS for second in TEXTS[:5]]


class Kept:
    """A run's texts and model, and what was kept of them."""

    def __init__(self, folder: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> None:
        self.folder, self.tokenizer, self.engine = folder, tokenizer, engine

    def config(self, **encode_settings: Any) -> RunConfig:
        settings = {"output": str(self.folder / "vectors"), "bad_rows": "quarantine", **encode_settings}
        return run_config(self.folder, dataset={"shard_rows": 7}, encode=settings)

    def run(self, texts: list[str | None], **encode_settings: Any) -> None:
        config = self.config(**encode_settings)
        encode(config, source_of(texts, config), self.tokenizer, self.engine)

    def verify(self, name: str, texts: list[str | None], sample: int = 1_000, **encode_settings: Any) -> SampleReport:
        config, url = self.config(**encode_settings), str(self.folder / name)
        return verify_sample(url, config, source_of(texts, config), self.tokenizer, self.engine, sample=sample, seed=1)


@pytest.fixture
def kept(tmp_path: Path, tokenizer: TextTokenizer, engine: LookupEngine) -> Kept:
    return Kept(tmp_path, tokenizer, engine)


def change_bits(engine: LookupEngine) -> None:
    engine.table = np.nextafter(engine.table.astype(np.float32), 9).astype(np.float64)


@pytest.mark.parametrize("vector_dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", ["cache", "vectors"])
def test_same_bits_are_found_and_other_bits_named(kept: Kept, name: str, vector_dtype: str) -> None:
    settings = {"vector_dtype": vector_dtype, "row_hashes": True, "cache": str(kept.folder / "cache")}
    kept.run([*MANY[:20], "", None], **settings)
    texts = [*MANY[10:], MANY[3], None]
    assert kept.verify(name, texts, **settings) == SampleReport(len(texts), 11, 11, ())
    assert kept.verify(name, texts, sample=4, **settings).compared == 4
    change_bits(kept.engine)
    if name == "cache" or vector_dtype == "float32":  # the last bit is lost in float16
        found = kept.verify(name, texts, sample=4, **settings)
        assert len(found.differing) == 4
        rows = [int(problem.split()[1].rstrip(":")) for problem in found.differing]
        assert rows == sorted(rows)
        assert set(rows) <= {*range(10), len(texts) - 2}
        assert "its vector differs by up to" in found.differing[0]
        assert f" from that in {kept.folder / name}" in found.differing[0]


def test_every_row_may_be_drawn(kept: Kept) -> None:
    kept.run(list(MANY), cache=str(kept.folder / "cache"))
    change_bits(kept.engine)
    config, drawn = kept.config(), set()
    for seed in range(40):
        source = source_of(list(MANY), config)
        url = str(kept.folder / "cache")
        found = verify_sample(url, config, source, kept.tokenizer, kept.engine, sample=5, seed=seed)
        drawn |= {int(problem.split()[1].rstrip(":")) for problem in found.differing}
    assert drawn == set(range(len(MANY)))


def test_other_lengths_are_named(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    from lengthwise.store import cache

    write = cache.vector_table
    monkeypatch.setattr(
        cache, "vector_table", lambda kept, vectors, lengths, cut: write(kept, vectors, lengths + 1, ~cut)
    )
    kept.run(MANY[:1], cache=str(kept.folder / "cache"))
    [problem] = kept.verify("cache", MANY[:1]).differing
    assert problem.startswith("row 0: has ")
    assert " tokens, but " in problem


def test_damaged_segments_are_left_to_the_checksums(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.run(MANY[:14], cache=str(kept.folder / "cache"))
    data, hashes = (sorted(kept.folder.glob(f"cache/*/{kind}/*")) for kind in ("data", "hashes"))
    data[0].write_bytes(b"damaged")
    assert kept.verify("cache", MANY[:14]) == SampleReport(14, 14, 7, ())
    assert str(data[0]) in caplog.text
    hashes[1].write_bytes(b"damaged")
    assert kept.verify("cache", MANY[:14]) == SampleReport(14, 7, 0, ())


def test_what_cannot_be_compared_is_refused(
    kept: Kept, encoder_config: Callable[..., EncoderConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.run(MANY[:14], cache=str(kept.folder / "cache"))
    with pytest.raises(StoreError, match="cache: has none of the 2 texts of memory; give a run that used it"):
        kept.verify("cache", MANY[20:22])
    with pytest.raises(StoreError, match="nowhere: not a cache of vectors"):
        kept.verify("nowhere", MANY)
    with pytest.raises(ConfigError, match="vectors: its vectors are not the run's: it has neither hashes of its texts"):
        kept.verify("vectors", MANY)
    with monkeypatch.context() as patch:
        patch.setattr(kept.engine, "batch_invariant", False, raising=False)
        with pytest.raises(ConfigError, match="depends on its batch in the last bits"):
            kept.verify("cache", MANY)
    before = {path.name for path in (kept.folder / "cache").iterdir()}
    kept.engine = LookupEngine(encoder_config(), "other weights")
    with pytest.raises(
        StoreError, match=r'cache: has no vectors of the run.*weights was "weights of a test", is "other'
    ):
        kept.verify("cache", MANY)
    assert {path.name for path in (kept.folder / "cache").iterdir()} == before
