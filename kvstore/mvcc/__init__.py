"""The state machine: revisions, ranges, transactions, compaction, watches. Deterministic, and without a clock."""
