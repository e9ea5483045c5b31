"""Faults that Raft implementations are known for, put into the library one at a time: the tests have to notice each."""
