"""The flags of the daemon: one table, from which reading, help and refusals follow.

Names and defaults are etcd's, so that unit files and manifests written for it keep working. A flag of etcd's that does
nothing here yet is refused by name when it is set to anything but its default: a member that silently went without TLS
would be worse than one that does not start.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kvstore.server.config import INITIAL_CORRUPT_CHECK, ConfigError, parse_initial_cluster, parse_urls
from kvstore.server.durations import parse_duration


def parse_text(text: str) -> str:
    return text


def parse_bool(text: str) -> bool:
    """A boolean as Go reads one. Raises ValueError for anything else."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"is true or false, not {text!r}")


def parse_integer(text: str) -> int:
    """A whole number. Raises ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"is a whole number, not {text!r}") from None


def parse_list(text: str) -> tuple[str, ...]:
    """The parts of a comma-separated list, each once, in their order."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_anything_if_star(text: str) -> str:
    """A list of origins or hosts of which `*` and nothing at all both mean any."""
    return text.strip() or "*"


def parse_feature_gates(text: str) -> frozenset[str]:
    """The features that `name=bool,name=bool,...` switches on. Raises ValueError for one that there is not."""
    enabled: dict[str, bool] = {}
    for part in parse_list(text):
        name, separator, value = part.partition("=")
        if not separator or name not in FEATURES:
            raise ValueError(f"each part is name=true or name=false with a name of {', '.join(FEATURES)}, not {part!r}")
        enabled[name] = parse_bool(value)
    return frozenset(name for name, is_enabled in enabled.items() if is_enabled)


Parse = Callable[[str], Any]

FEATURES: Final = (INITIAL_CORRUPT_CHECK,)
"""What --feature-gates can switch on, by etcd's names."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. default: as help shows it. parse: its value from text; raises ValueError if it is none.

    zero_is_default: an empty text or a zero stands for the default, as it does in etcd.
    supported: whether it takes effect in this version; if not, only its default is accepted.
    """

    name: str
    default: str
    help: str
    parse: Parse = parse_text
    zero_is_default: bool = False
    supported: bool = True

    @property
    def field(self) -> str:
        """The field of Config that it fills."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that it is read from."""
        return "ETCD_" + self.name.upper().replace("-", "_")

    def read(self, text: str) -> Any:
        """Its value. Raises ConfigError if text is none."""
        try:
            return self.parse(text)
        except ValueError as error:
            raise ConfigError(self.name, text, str(error)) from error


def _later(name: str, default: str, parse: Parse = parse_text) -> Flag:
    return Flag(name, default, "", parse, supported=False)


GROUPS: Final[Mapping[str, tuple[Flag, ...]]] = {
    "Member": (
        Flag("name", "default", "Name of this member, unique in its cluster."),
        Flag(
            "data-dir", "${name}.etcd", "Directory of everything that this member stores.", Path, zero_is_default=True
        ),
        Flag("wal-dir", "", "Directory of the log, if it is to be on another disk.", Path, zero_is_default=True),
        Flag(
            "snapshot-count",
            "10000",
            "Applied entries after which the log is cut.",
            parse_integer,
            zero_is_default=True,
        ),
        Flag("heartbeat-interval", "100", "Milliseconds between two heartbeats of the leader.", parse_integer),
        Flag("election-timeout", "1000", "Milliseconds without a leader before an election.", parse_integer),
        Flag(
            "initial-election-tick-advance",
            "true",
            "Whether a starting member waits less for a first leader.",
            parse_bool,
        ),
        Flag("listen-peer-urls", "http://localhost:2380", "URLs to listen on for other members.", parse_urls),
        Flag("listen-client-urls", "http://localhost:2379", "URLs to listen on for clients.", parse_urls),
        Flag(
            "listen-client-http-urls",
            "",
            "URLs to listen on for HTTP/1.1 alone; --listen-client-urls then serves only gRPC.",
            parse_urls,
        ),
        Flag("quota-backend-bytes", "0", "Bytes the state may take; 0 is 2 GiB, negative is no limit.", parse_integer),
        Flag(
            "backend-batch-interval",
            "",
            "Longest time between two commits of the state.",
            parse_duration,
            zero_is_default=True,
        ),
        Flag(
            "backend-batch-limit",
            "0",
            "Operations after which the state is committed.",
            parse_integer,
            zero_is_default=True,
        ),
        Flag("max-txn-ops", "128", "Operations that one branch of a transaction may have.", parse_integer),
        Flag("max-request-bytes", "1572864", "Bytes that a request may have.", parse_integer),
        Flag("max-concurrent-streams", "4294967295", "Calls that one connection may have open.", parse_integer),
        Flag("grpc-keepalive-min-time", "5s", "A client that pings more often is cut off.", parse_duration),
        Flag("grpc-keepalive-interval", "2h", "Silence after which a client is pinged; 0 is never.", parse_duration),
        Flag("grpc-keepalive-timeout", "20s", "Time a pinged client has to answer.", parse_duration),
        Flag("socket-reuse-port", "false", "Listen with SO_REUSEPORT.", parse_bool),
        Flag("socket-reuse-address", "false", "Listen with SO_REUSEADDR.", parse_bool),
        Flag(
            "grpc-server",
            "ngh2",
            "Server of clients: ngh2, or grpcio: slower, without limits on clients that do not read. Not etcd's.",
        ),
    ),
    "Clustering": (
        Flag(
            "initial-advertise-peer-urls",
            "http://localhost:2380",
            "URLs at which other members reach this one.",
            parse_urls,
        ),
        Flag(
            "initial-cluster",
            "default=http://localhost:2380",
            "First members, as name=peer-url,...; a name may repeat. By default this member alone.",
            parse_initial_cluster,
        ),
        Flag("initial-cluster-state", "new", "'new' to found a cluster, 'existing' to join one."),
        Flag("initial-cluster-token", "etcd-cluster", "Tells clusters apart that begin with the same URLs."),
        Flag("advertise-client-urls", "http://localhost:2379", "URLs at which clients reach this member.", parse_urls),
        Flag("strict-reconfig-check", "true", "Refuse changes of members that would lose the quorum.", parse_bool),
        Flag("pre-vote", "true", "Ask before an election whether it could be won.", parse_bool),
        Flag("max-learners", "1", "Learners that a cluster may have.", parse_integer),
        Flag(
            "max-protocol-version",
            "0",
            "Highest version of the protocol between members to speak; 0 is the highest known. Not a flag of etcd.",
            parse_integer,
        ),
        Flag(
            "auto-compaction-retention",
            "0",
            "History to keep: a duration (hours if without unit) or a number of revisions; 0 keeps all.",
        ),
        Flag("auto-compaction-mode", "periodic", "What the retention counts: 'periodic' time or 'revision'."),
    ),
    "Monitoring": (
        Flag("metrics", "basic", "'extensive' adds histograms of calls."),
        Flag("listen-metrics-urls", "", "Further URLs to serve /metrics and health on.", parse_urls),
    ),
    "Logging": (
        Flag("logger", "zap", "Only 'zap': the form of its lines is kept."),
        Flag(
            "log-outputs",
            "default",
            "'stderr' (the default), 'stdout' or paths of files, separated by commas.",
            parse_list,
        ),
        Flag("log-level", "info", "debug, info, warn, error, panic or fatal."),
        Flag("log-format", "json", "json or console."),
        Flag(
            "warning-unary-request-duration",
            "300ms",
            "Requests that take longer are logged.",
            parse_duration,
        ),
        Flag("warning-apply-duration", "100ms", "Applies that take longer are logged.", parse_duration),
    ),
    "Tuning": (
        Flag(
            "compaction-batch-limit",
            "1000",
            "Revisions that a compaction drops at once.",
            parse_integer,
            zero_is_default=True,
        ),
        Flag(
            "compaction-sleep-interval", "10ms", "Pause between two such batches.", parse_duration, zero_is_default=True
        ),
        Flag(
            "watch-progress-notify-interval",
            "10m",
            "Time between progress notifications.",
            parse_duration,
            zero_is_default=True,
        ),
        Flag("snapshot-catchup-entries", "5000", "Entries kept behind a cut of the log.", parse_integer),
        Flag(
            "experimental-memory-mlock",
            "false",
            "Lock what is read of the state into memory, as RLIMIT_MEMLOCK allows.",
            parse_bool,
        ),
    ),
    "Consistency": (
        Flag(
            "corrupt-check-time",
            "0s",
            "Time between two comparisons of all members' data by the leader; 0 is never.",
            parse_duration,
        ),
        Flag(
            "feature-gates",
            "",
            f"'{INITIAL_CORRUPT_CHECK}=true': a starting member first compares its data with the others'.",
            parse_feature_gates,
        ),
    ),
    "Unsafe": (Flag("unsafe-no-fsync", "false", "Do not wait for the disk. Loses data.", parse_bool),),
}

NOT_YET: Final = (
    _later("enable-grpc-gateway", "false", parse_bool),
    _later("discovery", ""),
    _later("discovery-token", ""),
    _later("discovery-endpoints", ""),
    _later("discovery-dial-timeout", "2s", parse_duration),
    _later("discovery-request-timeout", "5s", parse_duration),
    _later("discovery-keepalive-time", "2s", parse_duration),
    _later("discovery-keepalive-timeout", "6s", parse_duration),
    _later("discovery-insecure-transport", "true", parse_bool),
    _later("discovery-insecure-skip-tls-verify", "false", parse_bool),
    _later("discovery-cert", ""),
    _later("discovery-key", ""),
    _later("discovery-cacert", ""),
    _later("discovery-user", ""),
    _later("discovery-password", ""),
    _later("discovery-fallback", "exit"),
    _later("discovery-proxy", ""),
    _later("discovery-srv", ""),
    _later("discovery-srv-name", ""),
    _later("cert-file", ""),
    _later("key-file", ""),
    _later("client-cert-auth", "false", parse_bool),
    _later("client-cert-file", ""),
    _later("client-key-file", ""),
    _later("client-crl-file", ""),
    _later("client-cert-allowed-hostname", ""),
    _later("trusted-ca-file", ""),
    _later("auto-tls", "false", parse_bool),
    _later("peer-cert-file", ""),
    _later("peer-key-file", ""),
    _later("peer-client-cert-auth", "false", parse_bool),
    _later("peer-client-cert-file", ""),
    _later("peer-client-key-file", ""),
    _later("peer-trusted-ca-file", ""),
    _later("peer-cert-allowed-cn", ""),
    _later("peer-cert-allowed-hostname", ""),
    _later("peer-auto-tls", "false", parse_bool),
    _later("self-signed-cert-validity", "1", parse_integer),
    _later("peer-crl-file", ""),
    _later("cipher-suites", ""),
    _later("cors", "*", parse_anything_if_star),
    _later("host-whitelist", "*", parse_anything_if_star),
    _later("tls-min-version", "TLS1.2"),
    _later("tls-max-version", ""),
    _later("peer-skip-client-san-verification", "false", parse_bool),
    _later("auth-token", "simple"),
    _later("bcrypt-cost", "10", parse_integer),
    _later("auth-token-ttl", "300", parse_integer),
    _later("enable-log-rotation", "false", parse_bool),
    _later(
        "log-rotation-config-json",
        '{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}',
    ),
    _later("enable-distributed-tracing", "false", parse_bool),
    _later("distributed-tracing-address", "localhost:4317"),
    _later("distributed-tracing-service-name", "etcd"),
    _later("distributed-tracing-instance-id", ""),
    _later("distributed-tracing-sampling-rate", "0", parse_integer),
    _later("compact-hash-check-time", "1m", parse_duration),
    _later("bootstrap-defrag-threshold-megabytes", "0", parse_integer),
    _later("downgrade-check-time", "5s", parse_duration),
    _later("force-new-cluster", "false", parse_bool),
)

FORMER: Final = (
    Flag("experimental-corrupt-check-time", "0s", "corrupt-check-time", parse_duration),
    Flag("experimental-initial-corrupt-check", "false", f"feature-gates={INITIAL_CORRUPT_CHECK}=true", parse_bool),
)
"""Names that etcd's flags had until 3.5; the help of each is its present one."""

FLAGS: Final[Mapping[str, Flag]] = {flag.name: flag for group in (*GROUPS.values(), NOT_YET, FORMER) for flag in group}


class UnknownFlag(Exception):
    """No flag has this name. place: where it was given, as part of a sentence."""

    def __init__(self, name: str, place: str) -> None:
        import difflib  # here, for a member that starts needs none

        near = difflib.get_close_matches(name, FLAGS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        super().__init__(f"unknown flag {name!r} {place}{hint}")
