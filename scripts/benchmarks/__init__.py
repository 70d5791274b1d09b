"""The benchmarks of `lengthwise benchmark`, one module each.

Both sides of every ratio run alternately in one process, several times; medians are compared. No figure has a target.
"""
