"""The checks of `scripts/gpu_check.py`, one module per section, and the record of their results.

A check is one row: a name, a target, and a function that measures. Without a GPU no check runs, and each row reads "not
run on a GPU". A rehearsal runs the checks on the CPU to see that they work; its results prove nothing.
"""
