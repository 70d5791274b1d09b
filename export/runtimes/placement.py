"""Where onnxruntime ran each node of a graph, and what it copied between a GPU and the host.

Read from a profile of one batch: what ran, not what was planned. onnxruntime places a copy as a node of its own, one
a value however many nodes read it (core/optimizer/transformer_memcpy.cc), after its record of which node goes to
which provider was made. The `sequence_lens` of LSTM are read on the host by the CUDA kernel: lengths that were counted
on the GPU take one MemcpyToHost, whatever the number of layers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

COPIES = ("MemcpyToHost", "MemcpyFromHost")
_KERNEL = "_kernel_time"  # how the profile marks a node's own time


@dataclass(frozen=True)
class PlacedNode:
    """A node, and what ran it.

    Attributes:
        name: the node's.
        op: its operator.
        provider: e.g. CUDAExecutionProvider.
    """

    name: str
    op: str
    provider: str


@dataclass(frozen=True)
class Placement:
    """All nodes of a graph that ran, in the order of the profile."""

    nodes: tuple[PlacedNode, ...]

    @property
    def copies(self) -> tuple[PlacedNode, ...]:
        """The nodes that copy a value from or to the host."""
        return tuple(node for node in self.nodes if node.op in COPIES)

    def outside(self, provider: str) -> tuple[PlacedNode, ...]:
        """The nodes that another provider ran, copies left out."""
        return tuple(node for node in self.nodes if node.provider != provider and node.op not in COPIES)

    def describe(self, provider: str) -> dict[str, str]:
        """What is to be known of a session that was asked for `provider`."""
        inside = len(self.nodes) - len(self.outside(provider)) - len(self.copies)
        return {
            "nodes": f"{inside} on {provider}",
            "nodes elsewhere": ", ".join(f"{node.op} on {node.provider}" for node in self.outside(provider)) or "none",
            "copies": ", ".join(f"{count} {op}" for op, count in Counter(node.op for node in self.copies).items())
            or "none",
        }


def read_profile(path: Path) -> Placement:
    """The nodes in a profile that onnxruntime wrote; each once, however often it ran.

    Raises:
        ValueError: it is no profile, or no node ran.
    """
    events = json.loads(path.read_bytes())
    if not isinstance(events, list):
        raise ValueError(f"{path.name} is not a list of events")
    nodes = tuple(dict.fromkeys(_nodes(event for event in events if isinstance(event, dict))))
    if not nodes:
        raise ValueError(f"{path.name} tells of no node that ran")
    return Placement(nodes)


def _nodes(events: Iterable[dict[str, object]]) -> Iterable[PlacedNode]:
    for event in events:
        name, arguments = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Node" and name.endswith(_KERNEL) and isinstance(arguments, dict):
            yield PlacedNode(
                name.removesuffix(_KERNEL), str(arguments.get("op_name", "")), str(arguments.get("provider", ""))
            )
