"""A Config that exists is one that a member can run with; what it refuses, it names."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from kvstore.server.config import Config, ConfigError, Url, format_initial_cluster, parse_initial_cluster, parse_urls


def urls(text: str) -> tuple[Url, ...]:
    return parse_urls(text)


def test_defaults_are_one_member_named_default() -> None:
    config = Config()
    assert config.data_dir == Path("default.etcd")
    assert format_initial_cluster(config.initial_cluster) == "default=http://localhost:2380"
    assert config.election_ticks == 10
    assert config.request_timeout == 7.0
    assert config.wal_path == Path("default.etcd/member/wal")
    assert config.db_path == Path("default.etcd/member/db")
    config.verify_bootstrap()


def test_data_directory_and_cluster_follow_the_name() -> None:
    config = Config(name="m1", initial_advertise_peer_urls=urls("http://10.0.0.1:2380"))
    assert config.data_dir == Path("m1.etcd")
    assert format_initial_cluster(config.initial_cluster) == "m1=http://10.0.0.1:2380"
    config.verify_bootstrap()


def test_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(("flag", "quota"), [(0, 2 * 1024**3), (5, 5), (-1, None)])
def test_quota_of_zero_is_two_gibibytes_and_a_negative_one_is_none(flag: int, quota: int | None) -> None:
    assert Config(quota_backend_bytes=flag).quota == quota


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("http://localhost:2379", Url("http", "localhost", 2379)),
        (" HTTP://10.0.0.1:80 ", Url("http", "10.0.0.1", 80)),
        ("http://[::1]:2379", Url("http", "::1", 2379)),
        ("https://example.org:1", Url("https", "example.org", 1)),
        ("http://:2379", Url("http", "", 2379)),
    ],
)
def test_url_is_scheme_host_and_port(text: str, parsed: Url) -> None:
    assert Url.parse(text) == parsed
    assert Url.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:2379",
        "//localhost:2379",
        "ftp://localhost:2379",
        "unix:///run/etcd.sock",
        "http://localhost",
        "http://localhost:",
        "http://localhost:port",
        "http://localhost:65536",
        "http://localhost:2379/path",
        "http://localhost:2379/",
        "http://user@localhost:2379",
        "http://::1:2379",
        "http://localhost:2379?a=b",
        "http://localhost:\u0662\u0663",
    ],
)
def test_url_refuses_anything_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|unix|port"):
        Url.parse(text)


def test_url_lists_are_sorted_and_hold_each_once() -> None:
    assert list(map(str, urls("http://b:1,http://a:2, http://b:1"))) == ["http://a:2", "http://b:1"]
    assert urls("") == ()


def test_initial_cluster_gathers_the_urls_of_a_repeated_name() -> None:
    members = parse_initial_cluster("m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m1=http://10.1.0.1:2380")
    assert {name: len(found) for name, found in members.items()} == {"m1": 2, "m2": 1}
    assert parse_initial_cluster(format_initial_cluster(members)) == members


@pytest.mark.parametrize("text", ["m1", "=http://a:1", "m1=", "m1=http://a", "m1=http://a:1,m2"])
def test_initial_cluster_refuses_parts_that_are_not_name_and_url(text: str) -> None:
    with pytest.raises(ValueError, match=r"name=url|URL"):
        parse_initial_cluster(text)


@pytest.mark.parametrize(
    ("fields", "flag", "hint"),
    [
        ({"name": ""}, "name", "at least one character"),
        ({"name": "a=b"}, "name", "neither"),
        ({"heartbeat_interval": 0}, "heartbeat-interval", "above 0"),
        ({"election_timeout": 499}, "election-timeout", "500 ms or more"),
        ({"election_timeout": 50_001}, "election-timeout", "at most 50000"),
        ({"listen_peer_urls": ()}, "listen-peer-urls", "at least one"),
        ({"listen_client_urls": ()}, "listen-client-urls", "at least one"),
        ({"listen_client_urls": urls("http://example.org:1")}, "listen-client-urls", "IP address"),
        ({"listen_peer_urls": urls("http://:2380")}, "listen-peer-urls", "IP address"),
        ({"listen_client_urls": urls("https://127.0.0.1:1")}, "listen-client-urls", "TLS is not supported yet"),
        ({"initial_advertise_peer_urls": urls("http://:1")}, "initial-advertise-peer-urls", "no host"),
        ({"initial_advertise_peer_urls": ()}, "initial-advertise-peer-urls", "at least one"),
        ({"advertise_client_urls": ()}, "advertise-client-urls", "required"),
        ({"initial_cluster": {"default": urls("https://a:1")}}, "initial-cluster", "TLS"),
        ({"initial_cluster_state": "old"}, "initial-cluster-state", "new, existing"),
        ({"auto_compaction_mode": "daily"}, "auto-compaction-mode", "periodic, revision"),
        ({"auto_compaction_retention": -1.0}, "auto-compaction-retention", "between 0"),
        ({"snapshot_count": 0}, "snapshot-count", "between 1"),
        ({"max_txn_ops": 0}, "max-txn-ops", "between 1"),
        ({"max_request_bytes": 0}, "max-request-bytes", "between 1"),
        ({"max_concurrent_streams": 2**32}, "max-concurrent-streams", "4294967295"),
        ({"max_learners": -1}, "max-learners", "between 0"),
        ({"max_protocol_version": 3}, "max-protocol-version", "between 1 and 2"),
        ({"backend_batch_interval": 0.0}, "backend-batch-interval", "above 0"),
        ({"grpc_keepalive_timeout": -1.0}, "grpc-keepalive-timeout", "negative"),
        ({"grpc_server": "twisted"}, "grpc-server", "ngh2, grpcio"),
        ({"metrics": "all"}, "metrics", "basic, extensive"),
        ({"log_level": "loud"}, "log-level", "debug"),
        ({"log_format": "xml"}, "log-format", "json, console"),
        ({"log_outputs": ()}, "log-outputs", "at least one"),
    ],
)
def test_refusal_names_the_flag_and_says_what_would_be_right(fields: dict[str, Any], flag: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Config(**fields)
    assert refusal.value.flag == flag
    assert re.match(rf"--{flag}(=\S+)?: ", str(refusal.value))
    assert hint in refusal.value.reason


@pytest.mark.parametrize(("election", "heartbeat"), [(500, 100), (50_000, 10_000), (50_000, 1)])
def test_accepts_the_edges_of_the_timing(election: int, heartbeat: int) -> None:
    assert Config(election_timeout=election, heartbeat_interval=heartbeat).election_ticks == election // heartbeat


def cluster(text: str, **fields: Any) -> Config:
    return Config(name="m1", initial_cluster=parse_initial_cluster(text), **fields)


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        (cluster("m2=http://localhost:2380"), "no member named 'm1'"),
        (cluster("m1=http://10.0.0.1:2380"), "other URLs than --initial-advertise-peer-urls=http://localhost:2380"),
        (cluster("m1=http://localhost:2380,m1=http://localhost:2381"), "other URLs"),
        (cluster("m1=http://localhost:2380,m2=http://localhost:2380"), "to 'm1' and to 'm2'"),
        (cluster("m2=http://localhost:2380", initial_cluster_state="existing"), "no member named 'm1'"),
    ],
)
def test_a_new_member_must_find_itself_in_the_initial_cluster(config: Config, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        config.verify_bootstrap()
    assert refusal.value.flag == "initial-cluster"
    assert hint in refusal.value.reason


@pytest.mark.parametrize(
    "config",
    [
        cluster("m1=http://localhost:2380,m2=http://10.0.0.2:2380"),
        cluster("m1=http://127.0.0.1:2380"),
        cluster("m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380", initial_cluster_state="existing"),
    ],
)
def test_addresses_may_be_written_differently_and_a_joining_member_was_announced_before(config: Config) -> None:
    config.verify_bootstrap()
    assert "m1" in config.initial_cluster
