"""Fixtures of the dataset tests."""

from helpers.dataset_files import scratch

__all__ = ["scratch"]
