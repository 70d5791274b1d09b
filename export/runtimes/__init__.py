"""Runtimes, one module each, with the interface `base.Runtime`; `registry` lists those used in validation.

Servers import only the module that they need, so no PyTorch.
"""

from lengthwise.export.runtimes.base import NotRunnable, Outputs, Runtime

__all__ = ["NotRunnable", "Outputs", "Runtime"]
