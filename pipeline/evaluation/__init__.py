"""Measures what vectors are good for, with intervals, for several models side by side.

A file of tasks names texts and what is known of them; a model is anything that turns texts into vectors, or that ranks
texts by the words they share. The metrics are those of scikit-learn, scipy and ir-measures.
"""
