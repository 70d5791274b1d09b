"""Fixtures of several test files: a small tokenizer, small encoders, and no network."""

from __future__ import annotations

import gc
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and spinning idle threads slow a busy machine

import pytest

from helpers.engines import LookupEngine
from helpers.texts import TEXTS
from lengthwise.config import EncoderConfig, TokenizerTraining
from lengthwise.tokens.tokenizer import TextTokenizer
from lengthwise.tokens.training import train_tokenizer
from lengthwise.util.system import cpu_count


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: tests that wait for a server or another process leave theirs idle."""
    cores = cpu_count()
    return cores + cores // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no worker waits for them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_collection_finish() -> None:
    """Let garbage collections pass over what is there now: modules and tests, which stay until the end."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address}")
        original(self, address)

    original = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give `datasets` a cache folder of the suite, here and in the processes that tests start."""
    import datasets

    folder = tmp_path_factory.mktemp("huggingface")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder))
        patch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
        yield


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    """WordLevel over the words of TEXTS: [PAD] is 0, [UNK] is 1."""
    return train_tokenizer(TEXTS, TokenizerTraining(model="wordlevel", min_frequency=1, vocab_size=100))


@pytest.fixture(scope="session")
def encoder_config(tokenizer: TextTokenizer) -> Callable[..., EncoderConfig]:
    """A small EncoderConfig for `tokenizer`, with changes."""

    def make(**changes: Any) -> EncoderConfig:
        small = {"embedding_dim": 8, "hidden_size": 6, "vocab_size": tokenizer.vocab_size, "unk_token_id": 1}
        return EncoderConfig(**{**small, **changes})

    return make


@pytest.fixture
def engine(encoder_config: Callable[..., EncoderConfig]) -> LookupEngine:
    return LookupEngine(encoder_config())


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    """TEXTS, one per line."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def _built_artifact(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> Path:
    from lengthwise.encoder.model import seeded_encoder
    from lengthwise.export.artifact.build import build_artifact

    config = encoder_config(
        num_layers=2, bidirectional=True, normalize=True, trained=False, tokenizer_fingerprint=tokenizer.fingerprint
    )
    folder = tmp_path_factory.mktemp("built") / "artifact"
    build_artifact(seeded_encoder(config, 0), tokenizer, folder)
    return folder


@pytest.fixture
def artifact_folder(_built_artifact: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged at will, of the artifact of a two-layer bidirectional encoder."""
    return Path(shutil.copytree(_built_artifact, tmp_path / "artifact"))
