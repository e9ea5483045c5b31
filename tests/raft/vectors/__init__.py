"""Runs behaviour vectors: text files that script a raft group and state, to the letter, what must come out.

`python -m tests.raft.vectors DIR...` runs every file below the folders and prints a line for each.
"""
