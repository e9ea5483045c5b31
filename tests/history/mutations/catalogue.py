"""All mutations of the history checker, in the order in which they are tried."""

from __future__ import annotations

from typing import Final

from tests.history.mutations.order import ORDER
from tests.history.mutations.rules import RULES

CATALOGUE: Final = (*ORDER, *RULES)
