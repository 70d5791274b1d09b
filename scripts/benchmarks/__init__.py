"""What `scripts/benchmark.py` measures, one file a benchmark.

Both sides of every ratio run in one process, in turn, several times; medians are compared. Nothing here decides
whether a figure is good enough.
"""
