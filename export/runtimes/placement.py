"""Where onnxruntime ran each node of a graph, and what it copied between a GPU and the host.

Read from the profile of one batch: what ran, not what was planned.

- onnxruntime inserts one copy node per value, however many nodes read it (core/optimizer/transformer_memcpy.cc), and
  only after it has recorded which node goes to which provider.
- The CUDA kernel of LSTM reads `sequence_lens` on the host: lengths that are counted on the GPU take one MemcpyToHost
  for all layers together.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

COPIES = ("MemcpyToHost", "MemcpyFromHost")
_KERNEL = "_kernel_time"  # suffix of a node's own time in the profile


@dataclass(frozen=True)
class PlacedNode:
    """A node and the provider that ran it.

    Attributes:
        name: the node's name.
        op: its operator.
        provider: e.g. CUDAExecutionProvider.
    """

    name: str
    op: str
    provider: str


@dataclass(frozen=True)
class Placement:
    """All nodes that ran, in the order of the profile."""

    nodes: tuple[PlacedNode, ...]

    @property
    def copies(self) -> tuple[PlacedNode, ...]:
        """The nodes that copy a value to or from the host."""
        return tuple(node for node in self.nodes if node.op in COPIES)

    def outside(self, provider: str) -> tuple[PlacedNode, ...]:
        """The nodes that another provider ran, without copies."""
        return tuple(node for node in self.nodes if node.provider != provider and node.op not in COPIES)

    def describe(self, provider: str) -> dict[str, str]:
        """Counts of nodes and copies, for a session that requested `provider`."""
        inside = len(self.nodes) - len(self.outside(provider)) - len(self.copies)
        return {
            "nodes": f"{inside} on {provider}",
            "nodes elsewhere": ", ".join(f"{node.op} on {node.provider}" for node in self.outside(provider)) or "none",
            "copies": ", ".join(f"{count} {op}" for op, count in Counter(node.op for node in self.copies).items())
            or "none",
        }


def read_profile(path: Path) -> Placement:
    """The nodes in a profile of onnxruntime, each once.

    Raises:
        ValueError: the file is no profile, or no node ran.
    """
    events = json.loads(path.read_bytes())
    if not isinstance(events, list):
        raise ValueError(f"{path.name} is not a list of events")
    nodes = tuple(dict.fromkeys(_nodes(event for event in events if isinstance(event, dict))))
    if not nodes:
        raise ValueError(f"{path.name} has no node that ran")
    return Placement(nodes)


def _nodes(events: Iterable[dict[str, object]]) -> Iterable[PlacedNode]:
    for event in events:
        name, arguments = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Node" and name.endswith(_KERNEL) and isinstance(arguments, dict):
            yield PlacedNode(
                name.removesuffix(_KERNEL), str(arguments.get("op_name", "")), str(arguments.get("provider", ""))
            )
