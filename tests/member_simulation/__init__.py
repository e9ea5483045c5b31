"""Whole members, simulated: raft, log, store, leases, watches and membership in one process, decided by a seed."""
