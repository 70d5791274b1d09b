"""What `lengthwise benchmark` measures, one file per benchmark.

Both sides of every ratio run alternately in one process, several times; medians are compared. Nothing here judges a
figure.
"""
