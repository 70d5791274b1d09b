"""Divides a run's shards between processes."""

from __future__ import annotations

from dataclasses import dataclass

from lengthwise.errors import StoreError


@dataclass(frozen=True)
class Part:
    """One of `count` processes that divide a run's shards: those whose number modulo `count` is `index`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise StoreError(f"part {self.index} of {self.count}: parts are numbered from 0 to {self.count - 1}")

    def __str__(self) -> str:
        return f"{self.index:05d}-of-{self.count:05d}"

    def owns(self, shard: int) -> bool:
        """Whether this part encodes a shard."""
        return shard % self.count == self.index
