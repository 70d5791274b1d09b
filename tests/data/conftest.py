"""Fixtures of the dataset tests."""

from helpers.dataset_files import new_folder

__all__ = ["new_folder"]
