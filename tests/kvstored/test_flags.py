"""Every flag that etcd's users have in their unit files is known, read as etcd reads it, or refused by name."""

from pathlib import Path
from typing import Any

import pytest

from kvstore.server.config import Config, ConfigError, Url, parse_initial_cluster
from kvstored.configuration import ConfigFileError, build_config, configure, read_file
from kvstored.flags import FLAGS, FORMER, GROUPS, NOT_YET, UnknownFlag
from kvstored.help import help_text

ETCD_FLAGS = [line.split(" ", 1) for line in (Path(__file__).parent / "etcd_flags.txt").read_text().splitlines()]
OWN_FLAGS = {"grpc-server", "max-protocol-version"}
# A flag of etcd's that its own help does not name.
HIDDEN_FLAGS = {"experimental-memory-mlock"}
# Where the default is told as text of another form, or by what it stands for.
DEFAULTS_TOLD_OTHERWISE = {
    "enable-grpc-gateway": "false",
    "bootstrap-defrag-threshold-megabytes": "0",
    "compaction-sleep-interval": "10ms",
    "downgrade-check-time": "5s",
    "snapshot-catchup-entries": "5000",
}


def url(text: str) -> tuple[Url, ...]:
    return (Url.parse(text),)


# Every flag that takes effect: a text, and the field with its value.
EFFECTIVE: dict[str, tuple[str, Any]] = {
    "name": ("m1", "m1"),
    "data-dir": ("/data/m1", Path("/data/m1")),
    "wal-dir": ("/log/m1", Path("/log/m1")),
    "snapshot-count": ("5", 5),
    "heartbeat-interval": ("50", 50),
    "election-timeout": ("2000", 2000),
    "initial-election-tick-advance": ("false", False),
    "listen-peer-urls": ("http://127.0.0.1:1", url("http://127.0.0.1:1")),
    "listen-client-urls": ("http://127.0.0.1:1", url("http://127.0.0.1:1")),
    "listen-client-http-urls": ("http://127.0.0.1:1", url("http://127.0.0.1:1")),
    "quota-backend-bytes": ("-1", -1),
    "backend-batch-interval": ("50ms", 0.05),
    "backend-batch-limit": ("7", 7),
    "max-txn-ops": ("7", 7),
    "max-request-bytes": ("7", 7),
    "max-concurrent-streams": ("7", 7),
    "grpc-keepalive-min-time": ("1m30s", 90.0),
    "grpc-keepalive-interval": ("0s", 0.0),
    "grpc-keepalive-timeout": ("1s", 1.0),
    "socket-reuse-port": ("true", True),
    "socket-reuse-address": ("1", True),
    "grpc-server": ("grpcio", "grpcio"),
    "initial-advertise-peer-urls": ("http://a:1", url("http://a:1")),
    "initial-cluster": ("m1=http://a:1,m1=http://b:1", parse_initial_cluster("m1=http://a:1,m1=http://b:1")),
    "initial-cluster-state": ("existing", "existing"),
    "initial-cluster-token": ("t", "t"),
    "advertise-client-urls": ("http://a:1", url("http://a:1")),
    "strict-reconfig-check": ("F", False),
    "pre-vote": ("false", False),
    "max-learners": ("3", 3),
    "max-protocol-version": ("1", 1),
    "auto-compaction-retention": ("90m", 5400.0),
    "auto-compaction-mode": ("revision", "revision"),
    "metrics": ("extensive", "extensive"),
    "listen-metrics-urls": ("http://127.0.0.1:1", url("http://127.0.0.1:1")),
    "log-outputs": ("stdout, a.log", ("stdout", "a.log")),
    "log-level": ("debug", "debug"),
    "log-format": ("console", "console"),
    "warning-unary-request-duration": ("1s", 1.0),
    "warning-apply-duration": ("1s", 1.0),
    "compaction-batch-limit": ("7", 7),
    "compaction-sleep-interval": ("1s", 1.0),
    "watch-progress-notify-interval": ("1s", 1.0),
    "snapshot-catchup-entries": ("0", 0),
    "corrupt-check-time": ("4h", 14_400.0),
    "feature-gates": ("InitialCorruptCheck=true", frozenset({"InitialCorruptCheck"})),
    "experimental-memory-mlock": ("true", True),
    "unsafe-no-fsync": ("true", True),
}
# What must be set as well for the value to be accepted.
COMPANIONS = {"listen-client-urls": {"advertise-client-urls": "http://127.0.0.1:1"}}


@pytest.mark.parametrize(("name", "default"), ETCD_FLAGS, ids=[name for name, _ in ETCD_FLAGS])
def test_every_flag_of_etcd_is_known_with_its_default(name: str, default: str) -> None:
    assert FLAGS[name].default == DEFAULTS_TOLD_OTHERWISE.get(name, default)


def test_there_are_no_other_flags() -> None:
    assert set(FLAGS) - {name for name, _ in ETCD_FLAGS} == OWN_FLAGS | HIDDEN_FLAGS | {flag.name for flag in FORMER}


def test_every_flag_is_either_tested_here_or_refused() -> None:
    assert set(EFFECTIVE) | {"logger"} == {flag.name for flags in GROUPS.values() for flag in flags}
    assert all(flag.supported for flags in GROUPS.values() for flag in flags)
    assert not any(flag.supported for flag in NOT_YET)


@pytest.mark.parametrize("name", EFFECTIVE)
def test_a_flag_fills_its_field(name: str) -> None:
    text, value = EFFECTIVE[name]
    config = build_config({name: text, **COMPANIONS.get(name, {})})
    assert getattr(config, FLAGS[name].field) == value
    assert getattr(Config(), FLAGS[name].field) != value


@pytest.mark.parametrize("name", [name for name in FLAGS if name != "data-dir"])
def test_a_flag_set_to_its_default_changes_nothing(name: str) -> None:
    companions = COMPANIONS.get(name, {}) and {"advertise-client-urls": "http://localhost:2379"}
    assert build_config({name: FLAGS[name].default, **companions}) == Config()


@pytest.mark.parametrize("flag", NOT_YET, ids=lambda flag: flag.name)
def test_what_is_not_supported_yet_is_refused_by_name(flag: Any) -> None:
    other = {"true": "false", "false": "true"}.get(flag.default) or ("7s" if flag.default[-1:] in "sm" else "7")
    if flag.default in ("exit", "simple", "etcd", "TLS1.2", "localhost:4317"):
        other = "something else"
    with pytest.raises(ConfigError, match="is not supported yet") as refusal:
        build_config({flag.name: other})
    assert refusal.value.flag == flag.name
    assert build_config({flag.name: ""}) == Config()


def test_former_names_of_flags_mean_the_present_ones() -> None:
    former = {"experimental-corrupt-check-time": "4h", "experimental-initial-corrupt-check": "true"}
    present = {"corrupt-check-time": "4h", "feature-gates": "InitialCorruptCheck=true"}
    assert build_config(former) == build_config(present) != Config()
    assert build_config({**former, **present, "corrupt-check-time": "1h"}).corrupt_check_time == 3600.0


@pytest.mark.parametrize("text", ["InitialCorruptCheck", "NoSuchFeature=true", "InitialCorruptCheck=perhaps"])
def test_feature_gates_that_there_are_not_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build_config({"feature-gates": text})
    assert refusal.value.flag == "feature-gates"
    assert not build_config({"feature-gates": "InitialCorruptCheck=false"}).feature_gates


def test_a_default_may_be_written_differently() -> None:
    assert build_config({"compact-hash-check-time": "60s", "cors": "", "bcrypt-cost": "010"}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "hint"),
    [
        ("snapshot-count", "many", "whole number"),
        ("pre-vote", "perhaps", "true or false"),
        ("grpc-keepalive-timeout", "20", "not a duration"),
        ("listen-peer-urls", "localhost:2380", "http://"),
        ("initial-cluster", "m1", "name=url"),
        ("auto-compaction-retention", "a while", "not a duration"),
        ("logger", "capnslog", "must be zap"),
        ("election-timeout", "400", "500 ms or more"),
        ("compact-hash-check-time", "soon", "not a duration"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build_config({name: text})
    assert str(refusal.value).startswith(f"--{name}={text}: ")
    assert hint in str(refusal.value)


@pytest.mark.parametrize(
    ("mode", "text", "value"),
    [("periodic", "2", 7200.0), ("periodic", "30m", 1800.0), ("revision", "1000", 1000.0), ("revision", "0", 0.0)],
)
def test_retention_is_hours_a_duration_or_revisions(mode: str, text: str, value: float) -> None:
    config = build_config({"auto-compaction-mode": mode, "auto-compaction-retention": text})
    assert config.auto_compaction_retention == value


def test_retention_by_revision_takes_no_duration() -> None:
    with pytest.raises(ConfigError, match="number of revisions"):
        build_config({"auto-compaction-mode": "revision", "auto-compaction-retention": "5m"})


@pytest.mark.parametrize("name", ["snapshot-count", "backend-batch-limit", "compaction-batch-limit"])
def test_zero_stands_for_the_default_where_it_does_in_etcd(name: str) -> None:
    assert build_config({name: "0"}) == Config()


def test_listening_for_clients_elsewhere_needs_to_be_advertised() -> None:
    with pytest.raises(ConfigError, match="--advertise-client-urls: is required"):
        build_config({"listen-client-urls": "http://127.0.0.1:1"})


@pytest.mark.parametrize("name", EFFECTIVE)
def test_a_flag_is_read_from_the_environment(name: str) -> None:
    text, value = EFFECTIVE[name]
    flags = {name: text, **COMPANIONS.get(name, {})}
    environ = {"ETCD_" + flag.upper().replace("-", "_"): given for flag, given in flags.items()}
    configured = configure({}, environ, None)
    assert getattr(configured.config, FLAGS[name].field) == value
    assert configured.notices == ()


def test_the_command_line_beats_the_environment_and_says_so() -> None:
    configured = configure({"name": "a"}, {"ETCD_NAME": "b", "ETCD_MAX_TXN_OPS": "9", "ETCD_METRICS": ""}, None)
    assert (configured.config.name, configured.config.max_txn_ops) == ("a", 9)
    assert configured.notices == ("--name of the command line was used, not ETCD_NAME",)


def test_unknown_variables_are_reported_and_harmless() -> None:
    configured = configure({}, {"ETCD_SERVICE_HOST": "10.0.0.1", "ETCDCTL_API": "3", "PATH": "/bin"}, None)
    assert configured.config == Config()
    assert configured.notices == ("did not recognize ETCD_SERVICE_HOST",)


FILE = """
name: m1
data-dir: /data/m1
snapshot-count: 5
pre-vote: false
grpc-keepalive-timeout: 3s
grpc-keepalive-min-time: 1500000000
listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:2
advertise-client-urls: http://127.0.0.1:1
log-outputs: [stdout, a.log]
auto-compaction-retention: 1
wal-dir:
client-transport-security:
  cert-file: ''
  client-cert-auth: false
peer-transport-security:
  auto-tls: false
"""


def test_a_file_is_used_alone(tmp_path: Path) -> None:
    path = tmp_path / "etcd.yml"
    path.write_text(FILE)
    configured = configure({"name": "other"}, {"ETCD_METRICS": "extensive"}, str(path))
    config = configured.config
    assert (config.name, config.metrics, config.data_dir) == ("m1", "basic", Path("/data/m1"))
    assert (config.snapshot_count, config.pre_vote) == (5, False)
    assert (config.grpc_keepalive_timeout, config.grpc_keepalive_min_time) == (3.0, 1.5)
    assert [u.port for u in config.listen_client_urls] == [1, 2]
    assert config.log_outputs == ("stdout", "a.log")
    assert config.auto_compaction_retention == 3600
    assert configured.notices == ("used the configuration file alone, not name, metrics",)
    assert configure({}, {"ETCD_CONFIG_FILE": str(path)}, None).config == config


@pytest.mark.parametrize("name", EFFECTIVE)
def test_a_flag_is_read_from_a_file(name: str, tmp_path: Path) -> None:
    text, value = EFFECTIVE[name]
    path = tmp_path / "etcd.yml"
    path.write_text("".join(f"{key}: {given}\n" for key, given in {name: text, **COMPANIONS.get(name, {})}.items()))
    assert getattr(configure({}, {}, str(path)).config, FLAGS[name].field) == value


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("- name", "not a mapping"),
        ("name: [", "not YAML"),
        ("name: {a: b}", "is a mapping"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "etcd.yml"
    path.write_text(content)
    with pytest.raises(ConfigFileError, match=hint) as error:
        read_file(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"absent\.yml"):
        read_file(tmp_path / "absent.yml")


@pytest.mark.parametrize(
    ("content", "name", "hint"),
    [
        ("snapshot-cuont: 1", "snapshot-cuont", "did you mean snapshot-count"),
        ("client-transport-security: {certificate: a}", "client-transport-security.certificate", ""),
    ],
)
def test_an_unknown_key_of_a_file_is_refused_with_near_names(
    content: str, name: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "etcd.yml"
    path.write_text(content)
    with pytest.raises(UnknownFlag) as refusal:
        read_file(path)
    assert f"unknown flag {name!r} in {path}" in str(refusal.value)
    assert hint in str(refusal.value)


def test_tls_in_a_file_is_refused_by_the_name_of_its_flag(tmp_path: Path) -> None:
    path = tmp_path / "etcd.yml"
    path.write_text("peer-transport-security: {cert-file: a.pem}")
    with pytest.raises(ConfigError, match=r"--peer-cert-file=a\.pem: is not supported yet"):
        configure({}, {}, str(path))


def test_help_tells_of_every_flag() -> None:
    text = help_text()
    for name, flag in FLAGS.items():
        line = f"  --{name}: now --" if flag in FORMER else f"  --{name} '{flag.default}'\n"
        assert (line if flag.supported else f" {name}") in text
