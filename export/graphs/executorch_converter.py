"""executorch_converter.py PROGRAM TARGET: a program of `torch.export` (`.pt2`) to an ExecuTorch one (`.pte`).

Run as a script, by a Python that has executorch, and perhaps not this package.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path


def main(source: str, target: str) -> None:
    """Convert a file; XNNPACK gets what it can run."""
    warnings.simplefilter("ignore")
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.load(source)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    Path(target).write_bytes(lowered.to_executorch().buffer)


if __name__ == "__main__":
    main(*sys.argv[1:])
