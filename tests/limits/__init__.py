"""What a member does at its limits: many connections, clients that never read, more requests than it can do.

`python -m tests.limits idle|stalled|overload` measures at full size; test_limits.py holds the same at a small one.
"""
