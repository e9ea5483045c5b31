"""Messages on their way to the peers: what is ready for one goes out together, once a turn.

A message that only says how far the log is committed may wait a moment. Under load the next entries say it too, and
that saves each follower a message, an answer and a turn, and the leader as much for each follower. For a follower whose
own clients wait for the commit it does not wait. An answer that acknowledges nothing new, as that to such a message,
waits in the same way for one that does. Knows raft's messages and whom to hand them to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from raft.messages import Message, MessageType

ATTENTION_SECONDS: Final = 1.0
"""So long after a peer has passed a proposal on it is told of commits at once."""

NOTICE_SECONDS: Final = 0.002
"""How long news of a commit waits for entries to go along with, and an acknowledgement repeated for a new one. Longer
than the next request of a client takes."""


class Peers(Protocol):
    """Where messages to other members go."""

    def send(self, to: int, messages: list[Message]) -> None: ...


class Outbox:
    """The messages of one member. later: calls back after some seconds, as loop.call_later. clock: seconds."""

    def __init__(
        self, peers: Peers, later: Callable[[float, Callable[[], None]], object], clock: Callable[[], float]
    ) -> None:
        self._peers = peers
        self._clock = clock
        # Until when each peer is told of commits at once.
        self._attended: dict[int, float] = {}
        # Term and index that each peer was sent an acknowledgement of last.
        self._acknowledged: dict[int, tuple[int, int]] = {}
        self._later = later
        self._ready: dict[int, list[Message]] = {}
        self._notices: dict[int, Message] = {}
        self._armed = False

    def add(self, message: Message) -> None:
        """Send a message with the others."""
        messages = self._ready.get(message.to)
        if messages is None:
            self._ready[message.to] = [message]
        else:
            messages.append(message)

    def attend(self, peer: int) -> None:
        """A peer has passed a proposal on: its client waits until the peer has applied it."""
        self._attended[peer] = self._clock() + ATTENTION_SECONDS

    def send(self) -> None:
        """Send what was added, but what says next to nothing a little later or not at all."""
        if not self._ready:
            return
        ready, self._ready = self._ready, {}
        for to, messages in ready.items():
            notice = self._notices.pop(to, None)
            mere = [self._is_mere(to, message) for message in messages]
            if all(mere):
                last = messages[-1]
                if last.type is MessageType.APP and self._attended.get(to, 0.0) >= self._clock():
                    self._peers.send(to, [last])
                else:
                    self._notices[to] = last
                continue
            if notice is not None and not any(_says(message, notice) for message in messages):
                messages.insert(0, notice)
            self._peers.send(to, messages)
        if self._notices and not self._armed:
            self._armed = True
            self._later(NOTICE_SECONDS, self._send_notices)

    def _is_mere(self, to: int, message: Message) -> bool:
        """Whether a message can wait: news of a commit alone, or an acknowledgement that the peer was sent before."""
        if message.type is MessageType.APP:
            return not message.entries
        if message.type is not MessageType.APP_RESP or message.reject:
            return False
        acknowledged = (message.term, message.index)
        if self._acknowledged.get(to) == acknowledged:
            return True
        self._acknowledged[to] = acknowledged
        return False

    def _send_notices(self) -> None:
        self._armed = False
        notices, self._notices = self._notices, {}
        for to, notice in notices.items():
            self._peers.send(to, [notice])


def _says(message: Message, notice: Message) -> bool:
    """Whether a message tells a peer all that the notice does."""
    if message.type is not notice.type or message.term != notice.term:
        return False
    if message.type is MessageType.APP:
        return bool(message.entries) and message.commit >= notice.commit
    return not message.reject and message.index >= notice.index
