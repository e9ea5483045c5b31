"""The commands of the interaction vectors: whole groups of members, driven step by step.

Nothing happens but what a command says: messages wait until they are delivered, and storage work until it is done.

Beyond the commands of the shared vectors there are, for our own scenarios:
read-index ID CTX, report-snapshot FROM TO failed=true, tick ID COUNT, propose with several payloads or size=(BYTES..),
deliver-msgs from=ID, restart ID (a crash: what is not stored is lost), snapshot-unavailable ID (off=true), and for
add-nodes max-size-per-msg=, inflight-bytes=, max-uncommitted-entries-size=, disable-proposal-forwarding=.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from raft import (
    NO_LIMIT,
    ConfChange,
    ConfChangeTransition,
    ConfChangeV2,
    Config,
    ConfState,
    Entry,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    RaftError,
    RawNode,
    ReadOnlyOption,
    Snapshot,
    SnapshotMetadata,
    SnapshotTemporarilyUnavailable,
    decode_entry,
    is_local_target,
)
from raft.describe import MESSAGE_NAMES, STATE_NAMES, describe_entries, describe_message, describe_ready
from raft.tracker import format_progress
from tests.raft.vectors.confchange import parse_changes
from tests.raft.vectors.datadriven import Command, FormatError, parse_line

_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")
_NONE = _LEVELS.index("NONE")
_MAX_INT32 = (1 << 31) - 1
_TRANSITIONS = {
    "": ConfChangeTransition.AUTO,
    "auto": ConfChangeTransition.AUTO,
    "implicit": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}


class Output:
    """Gathers what a command prints: its own lines, and those of the library's log from the current level on."""

    def __init__(self) -> None:
        self.level = 0
        self._parts: list[str] = []

    def write(self, text: str) -> None:
        """Print, unless everything is silenced."""
        if self.level != _NONE:
            self._parts.append(text)

    def take(self) -> str:
        """What was printed since the last time."""
        text = "".join(self._parts)
        self._parts = []
        return text

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Print everything within two spaces to the right."""
        outer, self._parts = self._parts, []
        try:
            yield
        finally:
            text = "".join(self._parts)
            lines = text.removesuffix("\n").split("\n") if text else []
            self._parts = outer + [f"  {line}\n" for line in lines]

    def _log(self, level: int, message: str) -> None:
        if level >= self.level:
            self.write(f"{_LEVELS[level]} {message}\n")

    def debug(self, message: str) -> None:
        """Log at this level."""
        self._log(0, message)

    def info(self, message: str) -> None:
        """Log at this level."""
        self._log(1, message)

    def warning(self, message: str) -> None:
        """Log at this level."""
        self._log(2, message)

    def error(self, message: str) -> None:
        """Log at this level."""
        self._log(3, message)


class HistoryStorage(MemoryStorage):
    """Hands out the newest state machine snapshot instead of the one last stored."""

    def __init__(self, history: list[Snapshot]) -> None:
        super().__init__()
        self._history = history
        self.unavailable = False

    def snapshot(self) -> Snapshot:
        """The newest snapshot, unless the script holds it back."""
        if self.unavailable:
            raise SnapshotTemporarilyUnavailable
        return self._history[-1]


@dataclass(slots=True)
class Member:
    """A node with its storage, its pending storage work, and the state machine after each applied entry."""

    node: RawNode
    config: Config
    storage: HistoryStorage
    history: list[Snapshot]
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)

    @property
    def id(self) -> int:
        """The node's id."""
        return self.config.id


class InteractionEnvironment:
    """The group, and everything in flight between its members."""

    def __init__(self) -> None:
        self.output = Output()
        self.members: list[Member] = []
        self.messages: list[Message] = []
        self._commands: dict[str, Callable[[Command], None]] = {
            "_breakpoint": lambda c: None,
            "add-nodes": self._add_nodes,
            "campaign": lambda c: self._node(c).campaign(),
            "compact": self._compact,
            "deliver-msgs": self._deliver_messages,
            "forget-leader": lambda c: self._node(c).forget_leader(),
            "log-level": lambda c: self._set_level(c.words[0]),
            "process-append-thread": lambda c: self._each(c, "processing append thread", self.process_append),
            "process-apply-thread": lambda c: self._each(c, "processing apply thread", self.process_apply),
            "process-ready": lambda c: self._each(c, "handling Ready", self.process_ready),
            "propose": self._propose,
            "propose-conf-change": self._propose_conf_change,
            "raft-log": lambda c: self._print_log(self._member(c)),
            "raft-state": lambda c: self._print_state(),
            "read-index": lambda c: self._node(c).read_index(c.words[1].encode()),
            "report-snapshot": lambda c: self._node(c).report_snapshot(int(c.words[1]), not c.flag("failed")),
            "report-unreachable": lambda c: self._node(c).report_unreachable(int(c.words[1])),
            "restart": self._restart,
            "send-snapshot": self._send_snapshot,
            "set-randomized-election-timeout": self._set_election_timeout,
            "snapshot-unavailable": self._hold_snapshot_back,
            "stabilize": self._stabilize_command,
            "status": self._print_status,
            "tick": lambda c: self._tick(self._node(c), int(c.words[1])),
            "tick-election": lambda c: self._tick(self._node(c), self._member(c).config.election_tick),
            "tick-heartbeat": lambda c: self._tick(self._node(c), self._member(c).config.heartbeat_tick),
            "transfer-leadership": lambda c: self.members[c.number("from") - 1].node.transfer_leader(c.number("to")),
        }

    def handle(self, command: Command) -> str:
        """Carry out a command, and those on its input lines; what it printed, `ok` if nothing."""
        self.output.take()
        commands = [command]
        if command.name != "propose-conf-change":
            commands += [self._input_command(command, line) for line in command.input]
        error = ""
        for single in commands:
            error = self._handle_single(single)
            if error and self.output.level == _NONE:
                return error
            self.output.write(error)
        return self.output.take() or "ok"

    def _input_command(self, command: Command, line: str) -> Command:
        name, arguments = parse_line(line, command.line)
        return Command(command.line, name, arguments, [], [])

    def _handle_single(self, command: Command) -> str:
        handler = self._commands.get(command.name)
        if handler is None:
            raise FormatError(f"line {command.line}: unknown command {command.name}")
        try:
            handler(command)
        except RaftError as error:
            return str(error)
        return ""

    # Members

    def _member(self, command: Command) -> Member:
        return self.members[int(command.words[0]) - 1]

    def _node(self, command: Command) -> RawNode:
        return self._member(command).node

    def _add_nodes(self, command: Command) -> None:
        index = command.number("index")
        conf_state = ConfState(
            voters=[int(id) for id in command.values("voters")],
            learners=[int(id) for id in command.values("learners")],
        )
        snapshot = Snapshot(command.value("content").encode(), SnapshotMetadata(conf_state, index))
        bootstrap = snapshot != Snapshot()
        if bootstrap:
            if index <= 1:
                raise FormatError(f"line {command.line}: index must be specified as > 1 due to bootstrap")
            snapshot.metadata.term = 1
        for _ in range(int(command.words[0])):
            history = [snapshot]
            storage = HistoryStorage(history)
            if bootstrap:
                storage.apply_snapshot(snapshot)
            config = self._config(command, len(self.members) + 1, index, storage)
            self.members.append(Member(RawNode(config), config, storage, history))

    def _config(self, command: Command, id: int, applied: int, storage: MemoryStorage) -> Config:
        lease = command.value("read-only", "safe") == "lease-based"
        return Config(
            id=id,
            election_tick=3,
            heartbeat_tick=1,
            storage=storage,
            applied=applied,
            async_storage_writes=command.flag("async-storage-writes"),
            max_size_per_msg=command.number("max-size-per-msg", NO_LIMIT),
            max_committed_size_per_ready=command.number("max-committed-size-per-ready"),
            max_uncommitted_entries_size=command.number("max-uncommitted-entries-size"),
            max_inflight_msgs=command.number("inflight", _MAX_INT32),
            max_inflight_bytes=command.number("inflight-bytes"),
            check_quorum=command.flag("checkquorum"),
            pre_vote=command.flag("prevote"),
            read_only_option=ReadOnlyOption.LEASE_BASED if lease else ReadOnlyOption.SAFE,
            disable_proposal_forwarding=command.flag("disable-proposal-forwarding"),
            disable_conf_change_validation=command.flag("disable-conf-change-validation"),
            step_down_on_removal=command.flag("step-down-on-removal"),
            random_source=random.Random(id),
            logger=self.output,
        )

    def _restart(self, command: Command) -> None:
        """Lose everything but what is stored and applied, as a crash does, and what the storage threads had to do."""
        member = self._member(command)
        applied = member.history[-1].metadata.index
        # A configuration is stored with a snapshot, so one is made where the state machine is.
        if applied > MemoryStorage.snapshot(member.storage).metadata.index:
            newest = member.history[-1]
            member.storage.create_snapshot(applied, newest.metadata.conf_state, newest.data)
        member.append_work, member.apply_work = [], []
        self.messages = [m for m in self.messages if m.to != member.id or not _is_local(m)]
        member.config = replace(member.config, applied=applied)
        member.node = RawNode(member.config)

    def _set_election_timeout(self, command: Command) -> None:
        self._node(command).raft.randomized_election_timeout = command.number("timeout")

    def _hold_snapshot_back(self, command: Command) -> None:
        self._member(command).storage.unavailable = not command.flag("off")

    def _tick(self, node: RawNode, count: int) -> None:
        for _ in range(count):
            node.tick()

    # Proposals

    def _propose(self, command: Command) -> None:
        payloads = [word.encode() for word in command.words[1:]]
        payloads += [b"x" * int(size) for size in command.values("size")]
        if len(payloads) == 1:
            self._node(command).propose(payloads[0])
        else:
            self._node(command).propose_batch(payloads)

    def _propose_conf_change(self, command: Command) -> None:
        changes = parse_changes(" ".join(command.input))
        if command.flag("v1"):
            (change,) = changes
            self._node(command).propose_conf_change(ConfChange(type=change.type, node_id=change.node_id))
        else:
            transition = _TRANSITIONS[command.value("transition")]
            self._node(command).propose_conf_change(ConfChangeV2(transition, changes))

    # Work

    def _each(self, command: Command, title: str, work: Callable[[Member], None]) -> None:
        members = [self.members[int(id) - 1] for id in command.words]
        if len(members) == 1:
            work(members[0])
            return
        for member in members:
            self._titled(member, title, work)

    def _titled(self, member: Member, title: str, work: Callable[[Member], None]) -> None:
        self.output.write(f"> {member.id} {title}\n")
        with self.output.indented():
            work(member)

    def process_ready(self, member: Member) -> None:
        """Take the Ready and do what it says; storage work only if it is not asynchronous."""
        ready = member.node.ready()
        self.output.write(describe_ready(ready))
        asynchronous = member.config.async_storage_writes
        if not asynchronous:
            _store(member, ready.hard_state, ready.entries, ready.snapshot)
            self._apply(member, ready.committed_entries)
        for message in ready.messages:
            if not is_local_target(message.to):
                self.messages.append(message)
            elif message.type == MessageType.STORAGE_APPEND:
                member.append_work.append(message)
            else:
                member.apply_work.append(message)
        if not asynchronous:
            member.node.advance(ready)

    def process_append(self, member: Member) -> None:
        """Do one unit of the append thread's work."""
        if not member.append_work:
            self.output.write("no append work to perform")
            return
        message = member.append_work.pop(0)
        self.output.write(f"Processing:\n{describe_message(replace(message, responses=()))}\n")
        hard_state = HardState(message.term, message.vote, message.commit)
        stored = None if hard_state == HardState() else hard_state
        _store(member, stored, message.entries, message.snapshot)
        self._respond(message)

    def process_apply(self, member: Member) -> None:
        """Do one unit of the apply thread's work."""
        if not member.apply_work:
            self.output.write("no apply work to perform")
            return
        message = member.apply_work.pop(0)
        self.output.write(f"Processing:\n{describe_message(replace(message, responses=()))}\n")
        self._apply(member, message.entries)
        self._respond(message)

    def _respond(self, message: Message) -> None:
        self.output.write("Responses:\n")
        for response in message.responses:
            self.output.write(f"{describe_message(response)}\n")
        self.messages += message.responses

    def _apply(self, member: Member, entries: Iterable[Entry]) -> None:
        for entry in entries:
            last = member.history[-1]
            update, conf_state = entry.data, last.metadata.conf_state
            if entry.type != EntryType.NORMAL:
                change = decode_entry(entry)
                update, conf_state = change.context, member.node.apply_conf_change(change)
            metadata = SnapshotMetadata(conf_state, entry.index, entry.term)
            member.history.append(Snapshot(last.data + update, metadata))

    # Delivery

    def _deliver_messages(self, command: Command) -> None:
        drops = [int(id) for id in command.values("drop")]
        kind = command.value("type")
        if kind and kind not in MESSAGE_NAMES:
            raise FormatError(f"line {command.line}: unknown message type {kind}")
        wanted = MessageType(MESSAGE_NAMES.index(kind)) if kind else None
        sender = command.number("from")
        count = sum(self.deliver(int(id), wanted, sender) for id in command.words)
        count += sum(self.drop(id, wanted, sender) for id in drops)
        if not count:
            self.output.write("no messages\n")

    def _take(self, to: int, kind: MessageType | None, sender: int, *, local: bool) -> list[Message]:
        taken: list[Message] = []
        left: list[Message] = []
        for message in self.messages:
            wanted = message.to == to and (kind is None or message.type == kind)
            if sender and message.from_ != sender:
                wanted = False
            (taken if wanted and (local or not _is_local(message)) else left).append(message)
        self.messages = left
        return taken

    def deliver(self, to: int, kind: MessageType | None = None, sender: int = 0) -> int:
        """Deliver what is in flight to a member; how many messages that were."""
        messages = self._take(to, kind, sender, local=True)
        for message in messages:
            self.output.write(f"{describe_message(message)}\n")
            try:
                self.members[to - 1].node.step(message)
            except RaftError as error:
                self.output.write(f"{error}\n")
        return len(messages)

    def drop(self, to: int, kind: MessageType | None = None, sender: int = 0) -> int:
        """Lose what is in flight to a member, other than its own messages and those of its storage threads."""
        messages = self._take(to, kind, sender, local=False)
        for message in messages:
            self.output.write(f"dropped: {describe_message(message)}\n")
        return len(messages)

    def _send_snapshot(self, command: Command) -> None:
        sender, to = (int(word) for word in command.words)
        node = self.members[sender - 1]
        term = node.node.basic_status().hard_state.term
        message = Message(MessageType.SNAP, to, sender, term, snapshot=node.storage.snapshot())
        self.messages.append(message)
        self.output.write(describe_message(message))

    def _stabilize_command(self, command: Command) -> None:
        members = [self.members[int(id) - 1] for id in command.words] or self.members
        level = self.output.level
        if command.values("log-level"):
            self._set_level(command.value("log-level"))
        try:
            while self._stabilize_round(members):
                pass
        finally:
            self.output.level = level

    def _stabilize_round(self, members: Sequence[Member]) -> bool:
        """Do everything there is to do once, in a fixed order. False if there was nothing."""
        busy = False
        for member in members:
            if member.node.has_ready():
                busy = True
                self._titled(member, "handling Ready", self.process_ready)
        for member in members:
            if any(message.to == member.id for message in self.messages):
                busy = True
                self._titled(member, "receiving messages", self._deliver_all)
        for member in members:
            if member.append_work:
                busy = True
                self._titled(member, "processing append thread", self._drain_appends)
        for member in members:
            if member.apply_work:
                busy = True
                self._titled(member, "processing apply thread", self._drain_applies)
        return busy

    def _deliver_all(self, member: Member) -> None:
        self.deliver(member.id)

    def _drain_appends(self, member: Member) -> None:
        while member.append_work:
            self.process_append(member)

    def _drain_applies(self, member: Member) -> None:
        while member.apply_work:
            self.process_apply(member)

    # Looking

    def _set_level(self, name: str) -> None:
        self.output.level = _LEVELS.index(name.upper())

    def _compact(self, command: Command) -> None:
        member = self._member(command)
        member.storage.compact(int(command.words[1]))
        self._print_log(member)

    def _print_log(self, member: Member) -> None:
        first, last = member.storage.first_index(), member.storage.last_index()
        if last < first:
            self.output.write(f"log is empty: first index={first}, last index={last}")
        else:
            self.output.write(describe_entries(member.storage.entries(first, last + 1, NO_LIMIT)))

    def _print_state(self) -> None:
        for member in self.members:
            status = member.node.status()
            voter = "Voter" if status.id in status.config.voters.ids() else "Non-Voter"
            self.output.write(
                f"{status.id}: {STATE_NAMES[status.soft_state.raft_state]} ({voter}) "
                f"Term:{status.hard_state.term} Lead:{status.soft_state.lead}\n"
            )

    def _print_status(self, command: Command) -> None:
        self.output.write(format_progress(self._node(command).status().progress))


def _is_local(message: Message) -> bool:
    return message.from_ == message.to or is_local_target(message.from_) or is_local_target(message.to)


def _store(member: Member, hard_state: HardState | None, entries: Sequence[Entry], snapshot: Snapshot | None) -> None:
    if hard_state is not None:
        member.storage.set_hard_state(hard_state)
    if snapshot is not None:
        if entries:
            raise AssertionError("a Ready holds a snapshot or entries, never both")
        member.storage.apply_snapshot(snapshot)
    else:
        member.storage.append(entries)
