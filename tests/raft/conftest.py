"""Property tests draw the same examples every time, and take the time a busy machine gives them."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")
