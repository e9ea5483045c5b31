"""The configuration of one member: typed, frozen, checked once when it is made.

A field is named as its flag, with underscores. Where values come from (command line, environment, file) is the business
of the daemon's command; nothing here reads any of them. Durations are seconds, except the two timings that the flags
give in milliseconds.
"""

import ipaddress
import itertools
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kvstore.peer.versions import LOWEST, NEWEST

DEFAULT_NAME = "default"
DEFAULT_QUOTA_BYTES = 2 * 1024**3
DEFAULT_BATCH_INTERVAL = 0.1
DEFAULT_BATCH_LIMIT = 300_000
MAX_ELECTION_TIMEOUT = 50_000
"""Milliseconds. The bound that etcd's tuning guide gives for a cluster that spans the globe."""

INITIAL_CORRUPT_CHECK = "InitialCorruptCheck"
"""A feature gate, by etcd's name: a starting member first compares its data with the others'."""

LOG_LEVELS = ("debug", "info", "warn", "error", "panic", "fatal")

AutoCompactionMode = Literal["periodic", "revision"]
GrpcServer = Literal["ngh2", "grpcio"]


class ConfigError(Exception):
    """A flag has a value that a member cannot run with.

    flag: its name without dashes. value: what was given, as text. reason: what is wrong and what would be right.
    """

    def __init__(self, flag: str, value: object, reason: str) -> None:
        super().__init__(f"--{flag}{f'={value}' if str(value) else ''}: {reason}")
        self.flag = flag
        self.value = str(value)
        self.reason = reason


@dataclass(frozen=True, slots=True, order=True)
class Url:
    """Where a member listens or is reached: scheme, host and port, nothing more. An IPv6 host is without brackets."""

    scheme: Literal["http", "https"]
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Url":
        """The URL written in text, surrounding blanks aside.

        Raises ValueError unless it is http(s)://host:port without path, query or user; the host may be empty.
        """
        stripped = text.strip()
        scheme, separator, rest = stripped.partition("://")
        scheme = scheme.lower()
        if scheme in ("unix", "unixs"):
            raise ValueError(f"unix sockets are not supported yet: {text!r}")
        if not separator or scheme not in ("http", "https"):
            raise ValueError(f"a URL starts with http:// or https://, not so {text!r}")
        if any(mark in rest for mark in "/?#"):
            raise ValueError(f"a URL is scheme, host and port without a path, not so {text!r}")
        host, port = _split_host_port(rest, text)
        return cls("https" if scheme == "https" else "http", host, port)

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


def _split_host_port(authority: str, text: str) -> tuple[str, int]:
    host, separator, port = authority.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not separator or not (port.isascii() and port.isdigit()) or "@" in host or (":" in host and not bracketed):
        raise ValueError(f"a URL is scheme://host:port, not so {text!r}")
    if int(port) > 65_535:
        raise ValueError(f"port {port} is above 65535 in {text!r}")
    return (host[1:-1] if bracketed else host), int(port)


def parse_urls(text: str) -> tuple[Url, ...]:
    """The URLs of a comma-separated list, each once, sorted by their text (the order that member ids are made from).

    Raises ValueError for the first that is none. An empty text is an empty list.
    """
    urls = {Url.parse(part) for part in text.split(",")} if text.strip() else set()
    return tuple(sorted(urls, key=str))


def parse_initial_cluster(text: str) -> dict[str, tuple[Url, ...]]:
    """Peer URLs by member name, of `name=url,name=url,...`; a name may repeat, once for each of its URLs.

    Raises ValueError for a part that is not name=url.
    """
    members: dict[str, set[Url]] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        name, separator, url = part.strip().partition("=")
        if not separator or not name:
            raise ValueError(f"each part is name=url, such as m1=http://10.0.0.1:2380, not so {part!r}")
        members.setdefault(name, set()).add(Url.parse(url))
    return {name: tuple(sorted(urls, key=str)) for name, urls in members.items()}


def _default_peer_urls() -> tuple[Url, ...]:
    return (Url("http", "localhost", 2380),)


def _default_client_urls() -> tuple[Url, ...]:
    return (Url("http", "localhost", 2379),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a member is told at its start.

    Raises ConfigError when made with a value that it could not run with. Whether the initial cluster fits this member
    is asked by verify_bootstrap, for it concerns only a member that has no data yet.
    """

    # Member
    name: str = DEFAULT_NAME
    data_dir: Path = Path()
    """`<name>.etcd` unless given."""
    wal_dir: Path | None = None
    snapshot_count: int = 10_000
    """Applied entries between two cuts of the log."""
    snapshot_catchup_entries: int = 5_000
    """Entries kept behind a cut, so that a follower a little behind needs no snapshot."""
    heartbeat_interval: int = 100
    """Milliseconds; one tick of raft."""
    election_timeout: int = 1_000
    """Milliseconds."""
    initial_election_tick_advance: bool = True
    listen_peer_urls: tuple[Url, ...] = field(default_factory=_default_peer_urls)
    listen_client_urls: tuple[Url, ...] = field(default_factory=_default_client_urls)
    listen_client_http_urls: tuple[Url, ...] = ()
    """Where given, HTTP/1.1 (health, metrics, version) is served there and no longer on listen_client_urls."""
    quota_backend_bytes: int = 0
    """As given; quota says what it means."""
    backend_batch_interval: float = DEFAULT_BATCH_INTERVAL
    backend_batch_limit: int = DEFAULT_BATCH_LIMIT
    max_txn_ops: int = 128
    max_request_bytes: int = 1_572_864
    max_concurrent_streams: int = 4_294_967_295
    grpc_keepalive_min_time: float = 5.0
    grpc_keepalive_interval: float = 7_200.0
    """0: the server never pings."""
    grpc_keepalive_timeout: float = 20.0
    socket_reuse_port: bool = False
    socket_reuse_address: bool = False
    grpc_server: GrpcServer = "ngh2"
    warning_apply_duration: float = 0.1
    warning_unary_request_duration: float = 0.3
    watch_progress_notify_interval: float = 600.0
    compaction_batch_limit: int = 1_000
    compaction_sleep_interval: float = 0.01

    # Clustering
    initial_advertise_peer_urls: tuple[Url, ...] = field(default_factory=_default_peer_urls)
    initial_cluster: Mapping[str, tuple[Url, ...]] = field(default_factory=dict)
    """Peer URLs by member name; this member alone unless given."""
    initial_cluster_state: Literal["new", "existing"] = "new"
    initial_cluster_token: str = "etcd-cluster"
    advertise_client_urls: tuple[Url, ...] = field(default_factory=_default_client_urls)
    strict_reconfig_check: bool = True
    pre_vote: bool = True
    max_learners: int = 1
    max_protocol_version: int = 0
    """As given; highest_protocol says what it means."""
    auto_compaction_mode: AutoCompactionMode = "periodic"
    auto_compaction_retention: float = 0.0
    """Seconds in mode periodic, a number of revisions in mode revision; 0: no compaction of its own."""
    force_new_cluster: bool = False

    # Monitoring and logging
    metrics: Literal["basic", "extensive"] = "basic"
    listen_metrics_urls: tuple[Url, ...] = ()
    log_outputs: tuple[str, ...] = ("default",)
    """`default` and `stderr`, `stdout`, or paths of files to append to."""
    log_level: str = "info"
    log_format: Literal["json", "console"] = "json"

    # Consistency
    corrupt_check_time: float = 0.0
    """Seconds between two comparisons of all members by the leader; 0: never."""
    feature_gates: frozenset[str] = frozenset()
    """What is switched on, by etcd's names."""

    experimental_memory_mlock: bool = False
    unsafe_no_fsync: bool = False

    def __post_init__(self) -> None:
        if not self.name or any(mark in self.name for mark in "=,"):
            raise ConfigError("name", self.name, "a name has at least one character and neither '=' nor ','")
        if self.data_dir == Path():
            object.__setattr__(self, "data_dir", Path(f"{self.name}.etcd"))
        if not self.initial_cluster:
            object.__setattr__(self, "initial_cluster", {self.name: self.initial_advertise_peer_urls})
        self._check_timing()
        self._check_urls()
        self._check_bounds()
        self._check_choices()

    def _check_timing(self) -> None:
        if self.heartbeat_interval <= 0:
            raise ConfigError("heartbeat-interval", self.heartbeat_interval, "must be above 0 ms")
        if self.election_timeout < 5 * self.heartbeat_interval:
            raise ConfigError(
                "election-timeout",
                self.election_timeout,
                f"must be at least 5 times --heartbeat-interval ({self.heartbeat_interval} ms), "
                f"so {5 * self.heartbeat_interval} ms or more",
            )
        if self.election_timeout > MAX_ELECTION_TIMEOUT:
            raise ConfigError("election-timeout", self.election_timeout, f"must be at most {MAX_ELECTION_TIMEOUT} ms")

    def _check_urls(self) -> None:
        for flag, urls in (
            ("listen-peer-urls", self.listen_peer_urls),
            ("listen-client-urls", self.listen_client_urls),
            ("listen-client-http-urls", self.listen_client_http_urls),
            ("listen-metrics-urls", self.listen_metrics_urls),
        ):
            for url in urls:
                _check_plain(flag, url)
                _check_bindable(flag, url)
        for flag, urls in (
            ("initial-advertise-peer-urls", self.initial_advertise_peer_urls),
            ("advertise-client-urls", self.advertise_client_urls),
            ("initial-cluster", tuple(itertools.chain.from_iterable(self.initial_cluster.values()))),
        ):
            for url in urls:
                _check_plain(flag, url)
                if not url.host:
                    raise ConfigError(flag, url, "has no host; others need one to reach this member")
        for flag, urls in (
            ("listen-peer-urls", self.listen_peer_urls),
            ("listen-client-urls", self.listen_client_urls),
            ("initial-advertise-peer-urls", self.initial_advertise_peer_urls),
        ):
            if not urls:
                raise ConfigError(flag, "", "needs at least one URL")
        if not self.advertise_client_urls:
            raise ConfigError("advertise-client-urls", "", "is required when --listen-client-urls is given")

    def _check_bounds(self) -> None:
        bounds: tuple[tuple[str, float, float, float], ...] = (
            ("snapshot-count", self.snapshot_count, 1, 2**63 - 1),
            ("snapshot-catchup-entries", self.snapshot_catchup_entries, 0, 2**63 - 1),
            ("backend-batch-limit", self.backend_batch_limit, 1, 2**31 - 1),
            ("max-txn-ops", self.max_txn_ops, 1, 2**31 - 1),
            ("max-request-bytes", self.max_request_bytes, 1, 2**31 - 1),
            ("max-concurrent-streams", self.max_concurrent_streams, 1, 2**32 - 1),
            ("compaction-batch-limit", self.compaction_batch_limit, 1, 2**31 - 1),
            ("max-learners", self.max_learners, 0, 2**31 - 1),
            ("max-protocol-version", self.max_protocol_version or NEWEST, LOWEST, NEWEST),
            ("auto-compaction-retention", self.auto_compaction_retention, 0, 2**63 - 1),
        )
        for flag, value, lowest, highest in bounds:
            if not lowest <= value <= highest:
                raise ConfigError(flag, value, f"must be between {lowest} and {highest}")
        durations = (
            ("backend-batch-interval", self.backend_batch_interval, True),
            ("watch-progress-notify-interval", self.watch_progress_notify_interval, True),
            ("grpc-keepalive-min-time", self.grpc_keepalive_min_time, False),
            ("grpc-keepalive-interval", self.grpc_keepalive_interval, False),
            ("grpc-keepalive-timeout", self.grpc_keepalive_timeout, False),
            ("warning-apply-duration", self.warning_apply_duration, False),
            ("warning-unary-request-duration", self.warning_unary_request_duration, False),
            ("compaction-sleep-interval", self.compaction_sleep_interval, False),
            ("corrupt-check-time", self.corrupt_check_time, False),
        )
        for flag, seconds, positive in durations:
            if seconds < 0 or (positive and seconds == 0):
                raise ConfigError(flag, f"{seconds}s", "must be above 0" if positive else "must not be negative")

    def _check_choices(self) -> None:
        choices: tuple[tuple[str, str, tuple[str, ...]], ...] = (
            ("initial-cluster-state", self.initial_cluster_state, ("new", "existing")),
            ("auto-compaction-mode", self.auto_compaction_mode, ("periodic", "revision")),
            ("grpc-server", self.grpc_server, ("ngh2", "grpcio")),
            ("metrics", self.metrics, ("basic", "extensive")),
            ("log-level", self.log_level, LOG_LEVELS),
            ("log-format", self.log_format, ("json", "console")),
        )
        for flag, value, allowed in choices:
            if value not in allowed:
                raise ConfigError(flag, value, f"must be one of {', '.join(allowed)}")
        if not self.log_outputs:
            raise ConfigError("log-outputs", "", "needs at least one of default, stderr, stdout or a path")

    def verify_bootstrap(self) -> None:
        """Check that the initial cluster describes this member. Only for a member that has no data: later the flags are
        those of a start long ago, and the stored membership is what counts.

        Names in URLs are looked up where their text alone does not match. Raises ConfigError.
        """
        text = format_initial_cluster(self.initial_cluster)
        own = self.initial_cluster.get(self.name)
        if own is None:
            raise ConfigError("initial-cluster", text, f"has no member named {self.name!r}, which is this one's --name")
        owners: dict[str, str] = {}
        for name, urls in self.initial_cluster.items():
            for url in urls:
                if owners.setdefault(str(url), name) != name:
                    raise ConfigError("initial-cluster", text, f"gives {url} to {owners[str(url)]!r} and to {name!r}")
        # A member that joins was announced with its peer URLs already; the cluster knows them better than this flag.
        if self.initial_cluster_state == "new" and not _same_endpoints(own, self.initial_advertise_peer_urls):
            advertised = ",".join(map(str, self.initial_advertise_peer_urls))
            raise ConfigError(
                "initial-cluster",
                text,
                f"gives {self.name!r} other URLs than --initial-advertise-peer-urls={advertised}; both must agree",
            )

    @property
    def member_dir(self) -> Path:
        """What belongs to this member and to nobody else: the lock, and the log and state unless put elsewhere."""
        return self.data_dir / "member"

    @property
    def wal_path(self) -> Path:
        """Folder of the log."""
        return self.wal_dir if self.wal_dir is not None else self.member_dir / "wal"

    @property
    def db_path(self) -> Path:
        """Folder of the state."""
        return self.member_dir / "db"

    @property
    def election_ticks(self) -> int:
        """Ticks without a leader after which a follower campaigns."""
        return self.election_timeout // self.heartbeat_interval

    @property
    def quota(self) -> int | None:
        """Bytes that the state may take on disk; None without a limit (a negative flag)."""
        if self.quota_backend_bytes < 0:
            return None
        return self.quota_backend_bytes or DEFAULT_QUOTA_BYTES

    @property
    def highest_protocol(self) -> int:
        """The highest version of the protocol between members that this member speaks."""
        return self.max_protocol_version or NEWEST

    @property
    def initial_corrupt_check(self) -> bool:
        """Whether this member compares its data with the others' before it starts."""
        return INITIAL_CORRUPT_CHECK in self.feature_gates

    @property
    def request_timeout(self) -> float:
        """Seconds a request without a deadline of its own may wait: 5 s for queues and disks, plus two elections."""
        return 5.0 + 2 * self.election_timeout / 1000


def format_initial_cluster(members: Mapping[str, Iterable[Url]]) -> str:
    """The text that parse_initial_cluster reads."""
    return ",".join(f"{name}={url}" for name, urls in members.items() for url in urls)


def _check_plain(flag: str, url: Url) -> None:
    if url.scheme == "https":
        raise ConfigError(flag, url, "TLS is not supported yet; use http://")


def _check_bindable(flag: str, url: Url) -> None:
    if url.host == "localhost":
        return
    try:
        ipaddress.ip_address(url.host)
    except ValueError:
        raise ConfigError(flag, url, "listens on an IP address or localhost, not on a name; try 0.0.0.0") from None


def _same_endpoints(left: Iterable[Url], right: Iterable[Url]) -> bool:
    left, right = set(left), set(right)
    return left == right or {_resolved(url) for url in left} == {_resolved(url) for url in right}


def _resolved(url: Url) -> tuple[str, str, int]:
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError:
        return url.scheme, url.host.lower(), url.port
    # localhost has an address in each family; the smallest text is the same one on every call.
    return url.scheme, min(str(entry[4][0]) for entry in found), url.port
