"""Runtimes, one small file each behind `base.Runtime`; `registry` lists those that an artifact is validated on.

What serves an artifact imports the file that it needs, and so no PyTorch.
"""

from lengthwise.export.runtimes.base import NotRunnable, Outputs, Runtime

__all__ = ["NotRunnable", "Outputs", "Runtime"]
