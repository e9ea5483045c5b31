"""Faults of the history checker, put in one at a time: its tests have to notice each."""
