"""What several test files share: a small tokenizer, small encoders, and a machine without a network."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and idle threads that spin slow a busy machine

import numpy as np
import pytest
from numpy.typing import NDArray

from export.runtimes import Outputs, Runtime
from export.variants import NATIVE
from pipeline.batching import STEPWISE
from pipeline.config import EncoderConfig, TokenizerTraining
from pipeline.tokenizer import TextTokenizer, train_tokenizer

TEXTS = (
    "the cat sat on the mat",
    "a dog barked at the moon",
    "rain fell",
    "the long road wound over the hills and down to the sea",
    "moon",
    "cats and dogs and cats again",
    "over the sea the rain fell and the dog sat on the long road",
)


Answer = Callable[[NDArray[np.int64], NDArray[np.int64]], Outputs]


class LookupEngine:
    """An engine of NumPy alone: the mean of a table's rows, to which a row's padding would show."""

    name, costs, reference = "lookup", STEPWISE, None
    run_all = staticmethod(map)

    def __init__(self, config: EncoderConfig) -> None:
        self.config = config
        self.batches = self.rows = 0
        self.table = np.random.default_rng(0).normal(size=(config.vocab_size, config.dim))

    def encode_batch(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        self.batches += 1
        self.rows += len(lengths)
        assert input_ids.dtype == lengths.dtype == np.int64
        assert lengths.min() >= 1
        assert input_ids.shape == (len(lengths), lengths.max())
        rows = zip(input_ids, lengths, strict=True)
        return np.stack([self.table[ids[:length]].mean(axis=0) for ids, length in rows]).astype(np.float32)


class Answering(Runtime):
    """A runtime made of a function."""

    name, files = "answering", MappingProxyType({NATIVE: "nothing"})

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def load(self, path: Path) -> None:
        return

    def run(self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]) -> Outputs:
        return self._answer(input_ids, attention_mask)

    def describe(self) -> dict[str, str]:
        return {}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def full_disk(*_: Any, **__: Any) -> None:
    """What any write says once the disk is full."""
    raise OSError(errno.ENOSPC, "No space left on device")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that nothing else is left to wait for in the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the suite may reach beyond this machine."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"a test tried to reach {address}")
        original(self, address)

    original = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`datasets` keeps its copies in a folder of the suite's own, here and in the processes that tests start."""
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
    """TEXTS, one a line."""
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def _built_artifact(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer, encoder_config: Callable[..., EncoderConfig]
) -> Path:
    from export.build import build_artifact
    from pipeline.encoder import seeded_encoder

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
