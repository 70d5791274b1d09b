"""The teacher's vectors on disk: one per text, found by the text's hash, made once.

- A shard is two files, `NAME.vectors.npy` (float[rows, dim]) and `NAME.keys.npy` (uint8[rows, 16]), where NAME is a
  hash of the keys. The keys are written last: a shard without them does not exist. Since names come from contents, two
  processes can fill one folder.
- Vectors are memory-mapped and read row by row, so a corpus may be larger than the memory.
- Texts are encoded from the longest to the shortest, so that a shard's texts have about the same length and the memory
  that the teacher needs is known at the start.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lengthwise.errors import RunError, StoreError
from lengthwise.training.progress import Bars
from lengthwise.training.teacher import Teacher
from lengthwise.util.files import replace_file, write_atomically
from lengthwise.util.text_files import read_text

KEY_BYTES = 16
SHARD_ROWS = 2_048
_KEYS, _VECTORS = ".keys.npy", ".vectors.npy"
log = logging.getLogger(__name__)


def text_keys(texts: Iterable[str]) -> NDArray[np.uint8]:
    """uint8[texts, 16]: the first half of each text's sha256."""
    digests = b"".join(hashlib.sha256(text.encode()).digest()[:KEY_BYTES] for text in texts)
    return np.frombuffer(digests, np.uint8).reshape(-1, KEY_BYTES)


class TeacherCache:
    """The vectors of one teacher, in one type, in a folder.

    Attributes:
        folder: `PARENT/IDENTITY`, of the teacher's fingerprint and the type.
        dim: the width of a vector.
    """

    def __init__(self, parent: Path, teacher: Teacher, dtype: str) -> None:
        """Open the cache, or begin a new one, for which the teacher is loaded.

        Raises:
            StoreError: the folder cannot be read or written.
        """
        self._teacher, self._dtype = teacher, np.dtype(dtype)
        name = hashlib.sha256(f"{teacher.fingerprint} {dtype}".encode()).hexdigest()[:16]
        self.folder = parent / name
        self.dim = self._read_dim()
        self._open_shards()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _read_dim(self) -> int:
        path = self.folder / "teacher.json"
        try:
            return int(json.loads(read_text(path))["dim"])
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: cannot be read (%s); the teacher is loaded to write it again", path, error)
        dim = self._teacher.encode(["a"]).shape[1]
        record = {"teacher": self._teacher.name, "fingerprint": self._teacher.fingerprint, "dim": dim}
        write_atomically(path, json.dumps(record, indent=2).encode() + b"\n")
        return dim

    def _open_shards(self) -> None:
        keys, self._shards = [np.empty((0, KEY_BYTES), np.uint8)], list[NDArray[np.floating]]()
        for path in sorted(self.folder.glob(f"*{_KEYS}")):
            vectors_path = path.with_name(path.name.removesuffix(_KEYS) + _VECTORS)
            try:
                found, vectors = np.load(path), np.load(vectors_path, mmap_mode="r")
            except (OSError, ValueError, EOFError) as error:
                log.warning("%s: left out, since it cannot be read (%s); its texts are encoded again", path, error)
                continue
            if found.shape != (len(vectors), KEY_BYTES) or vectors.shape[1:] != (self.dim,):
                log.warning("%s: left out, since its vectors do not fit; its texts are encoded again", path)
                continue
            keys.append(found)
            self._shards.append(vectors)
        self._starts = np.cumsum([0, *map(len, self._shards)])
        self._known = _to_arrow(np.concatenate(keys))

    def fill(self, texts: Sequence[str], bars: Bars = Bars()) -> None:
        """Encode the texts that are not there yet. What was written before an interruption is kept.

        Raises:
            RunError: the teacher gives a value that is no number.
            StoreError: a shard cannot be written.
        """
        keys = text_keys(texts)
        missing = np.flatnonzero(self.find(keys) < 0)
        _, first = np.unique(keys[missing].view(f"V{KEY_BYTES}").ravel(), return_index=True)
        missing = missing[np.sort(first)]
        sizes = np.array([len(texts[row]) for row in missing.tolist()], np.int64)
        missing = missing[np.argsort(-sizes, kind="stable")]
        with bars.open("teacher", int(sizes.sum()), "characters") as bar:
            for start in range(0, len(missing), SHARD_ROWS):
                rows = missing[start : start + SHARD_ROWS]
                chosen = [texts[row] for row in rows.tolist()]
                self._write(keys[rows], self._encode(chosen))
                bar.update(sum(map(len, chosen)))
        self._open_shards()

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The position of each key's vector, int64[keys]; -1 where there is none."""
        found = pc.index_in(_to_arrow(keys), value_set=self._known)
        return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors by the positions that `find` gave: float32[positions, dim]."""
        vectors = np.empty((len(positions), self.dim), np.float32)
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        for shard in np.unique(shards).tolist():
            chosen = shards == shard
            vectors[chosen] = self._shards[shard][positions[chosen] - self._starts[shard]]
        return vectors

    def token_vectors(self, bars: Bars = Bars()) -> NDArray[np.float32] | None:
        """`Teacher.token_vectors`, made once too.

        Raises:
            StoreError: the file cannot be written.
        """
        path = self.folder / "tokens.npy"
        try:
            return np.asarray(np.load(path), np.float32)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s: cannot be read (%s); it is made again", path, error)
        vectors = self._teacher.token_vectors(bars)
        if vectors is not None:
            self._save(path, vectors.astype(np.float32))
        return vectors

    def _encode(self, texts: list[str]) -> NDArray[np.floating]:
        with np.errstate(over="ignore"):  # is refused below
            vectors = self._teacher.encode(texts).astype(self._dtype)
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(wrong):
            raise RunError(
                f"the teacher {self._teacher.name} gives values that are no {self._dtype} numbers, for the text"
                f" {texts[int(wrong[0])][:60]!r}; set train.teacher_dtype to float32 and train.teacher_precision to"
                " fp32, or leave the text out"
            )
        return vectors

    def _write(self, keys: NDArray[np.uint8], vectors: NDArray[np.floating]) -> None:
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
        for suffix, array in ((_VECTORS, vectors), (_KEYS, keys)):
            self._save(self.folder / f"{name}{suffix}", array)

    def _save(self, path: Path, array: NDArray[Any]) -> None:
        try:
            with replace_file(path) as part, open(part, "wb") as file:
                np.save(file, array)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be written ({error}); fix that, or choose another train.cache"
            ) from error


def _to_arrow(keys: NDArray[np.uint8]) -> pa.Array:
    buffer = pa.py_buffer(np.ascontiguousarray(keys))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, buffer])
