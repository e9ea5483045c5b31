"""Seeded simulation of raft groups: every run is decided by its seed, and a failing one replays exactly."""
