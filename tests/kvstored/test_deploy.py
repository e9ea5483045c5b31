"""What the files under deploy/ name exists: flags, metrics and their labels, paths of probes."""

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from kvstore.server.metrics.catalog import CATALOG
from kvstored.configuration import build_config
from kvstored.flags import FLAGS

DEPLOY = Path(__file__).parents[2] / "deploy"
VARIABLES = {flag.variable: flag.name for flag in FLAGS.values()}


def expressions() -> Iterator[str]:
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads((DEPLOY / "grafana/kvstore.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_dashboards_and_alerts_ask_for_metrics_that_exist(expression: str) -> None:
    asked = re.findall(r"\b((?:etcd|grpc_server|os|kvstore|process)_[a-z_]+)(\{[^}]*\})?", expression)
    names = [(name, labels) for name, labels in asked if labels]
    assert names or expression.startswith("sum(up") or "up{" in expression
    for name, labels in names:
        spec = CATALOG.get(name) or CATALOG.get(name.removesuffix("_bucket"))
        if spec is None:
            assert name in ("process_resident_memory_bytes", "process_cpu_seconds_total")
        else:
            used = set(re.findall(r"(\w+)(?:=~|!=|=)", labels))
            assert used <= {"job", "instance", *spec.labels}
            assert name.endswith("_bucket") == (spec.kind == "histogram")


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    lines = (DEPLOY / "systemd/kvstored.env").read_text().splitlines()
    yield "systemd", dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    container = (DEPLOY / "container/Containerfile").read_text()
    image = dict(re.findall(r"(ETCD_\w+)=(\S+)", container))
    for name, service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].items():
        yield f"compose {name}", image | service["environment"]
    (pods,) = [
        document
        for document in yaml.safe_load_all((DEPLOY / "kubernetes/kvstore.yaml").read_text())
        if document["kind"] == "StatefulSet"
    ]
    (container,) = pods["spec"]["template"]["spec"]["containers"]
    for number in range(pods["spec"]["replicas"]):
        pod = f"kvstore-{number}"
        values = {entry["name"]: entry.get("value", pod) for entry in container["env"]}
        yield pod, image | {name: value.replace("$(ETCD_NAME)", pod) for name, value in values.items()}


@pytest.mark.parametrize("environment", [pytest.param(values, id=name) for name, values in environments()])
def test_environments_make_a_member_of_its_initial_cluster(environment: dict[str, str]) -> None:
    assert environment.keys() <= VARIABLES.keys()
    config = build_config({VARIABLES[name]: value for name, value in environment.items()})
    config.verify_bootstrap()
    assert len(config.initial_cluster) == 3


def test_the_local_cluster_is_started_with_flags_that_exist() -> None:
    namespace = runpy.run_path(str(DEPLOY / "local_cluster.py"))
    for place in namespace["PLACES"]:
        given = dict(argument[2:].split("=", 1) for argument in namespace["command"](place) if argument[:2] == "--")
        config = build_config(given)
        config.verify_bootstrap()
        assert config.data_dir == Path("local-cluster") / place.name
    assert [place.client_port for place in namespace["PLACES"]] == [2379, 22379, 32379]
    assert [place.peer_port for place in namespace["PLACES"]] == [2380, 22380, 32380]
