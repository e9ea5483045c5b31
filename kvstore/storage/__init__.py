"""What LMDB holds for a member: the write-ahead log, the state, and the data directory around them.

Knows bytes, tables and raft's log entries; not what the tables mean. Imports nothing here on purpose: the writer
processes import modules of this package and should start fast.
"""
