"""The nemesis: a cluster of real processes, mistreated in every way this machine allows, while clients of all kinds
write down what they were told; then what was told is checked.

`python -m tests.chaos --help` says how it is run, docs/testing.md what it does and how a failure is read.
"""
