"""Members of two builds in one cluster: see docs/testing.md."""
