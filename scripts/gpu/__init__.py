"""What `scripts/gpu_check.py` checks on a GPU, one file a kind of check, and how the results are kept.

A check is a row: what is measured, what is asked for, and a function that finds out. Where there is no GPU none of
them runs, and each row reads "not run on a GPU"; a rehearsal runs them on this machine's processor to see that they
work, and its results are nobody's proof.
"""
