"""Demonstrations that a script writes: it knows the gold passages and searches a real index."""
