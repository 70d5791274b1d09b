"""Trains an encoder from a teacher's vectors, pairs, labels, or a mixture of them."""
