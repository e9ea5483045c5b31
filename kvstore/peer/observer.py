"""What is told of the exchange with other members as it happens, for whoever publishes metrics."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class PeerObserver(Protocol):
    """Wants to know how the exchange with other members goes. The contexts see the error of what fails within."""

    def round_trip(self, member: int, seconds: float) -> None:
        """A call to a member was answered."""

    def unreadable(self, member: int) -> None:
        """A member has sent what cannot be read."""

    def sending_snapshot(self, member: int) -> AbstractContextManager[None]:
        """A copy of the state goes to a member."""

    def receiving_snapshot(self, member: int) -> AbstractContextManager[None]:
        """A copy of the state comes from a member."""

    def synced_snapshot(self, seconds: float) -> None:
        """The file of a received copy was synced."""


class Unobserved:
    """The observer of an exchange whose numbers nobody reads."""

    def round_trip(self, member: int, seconds: float) -> None:
        """As PeerObserver."""

    def unreadable(self, member: int) -> None:
        """As PeerObserver."""

    def sending_snapshot(self, member: int) -> AbstractContextManager[None]:
        """As PeerObserver."""
        return nullcontext()

    def receiving_snapshot(self, member: int) -> AbstractContextManager[None]:
        """As PeerObserver."""
        return nullcontext()

    def synced_snapshot(self, seconds: float) -> None:
        """As PeerObserver."""
