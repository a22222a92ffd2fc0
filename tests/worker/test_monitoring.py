"""The dashboard, the alerts and the page about operations: they tell of metrics that there are, and of each of them."""

import json
import re
from pathlib import Path
from typing import cast

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from registry.api.app import create_app
from registry.base.settings import Settings
from registry.base.vocabulary import JobKind
from registry.metrics.exposition import page
from registry.metrics.relay import RelayMetrics
from serving.log import AnswerLog
from serving.sources.port import Source
from tests.operators_key import OPERATOR, SECRET
from worker.metrics import WorkerMetrics

ROOT = Path(__file__).resolve().parents[2]
METRIC = re.compile(r"\bmelo_\w+")
SELECTOR = re.compile(r"\b(melo_\w+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby \(([^)]*)\) \(\s*(?:rate|increase|max by \([^)]*\) )?\(?(melo_\w+)")
ADDED = {"instance", "job", "le"}  # by Prometheus, and of every histogram


@pytest.fixture
def exported(database_url, tiny_workflow):
    """Every metric of the API, relay, worker and a server's log: its samples' labels, its family's name and type."""
    with TestClient(
        create_app(Settings(database_url=database_url, api_key=SECRET)),
        headers=OPERATOR,
    ) as api:
        api.get("/v1/collections")
        pages = [api.get("/metrics").text]
    pages.append(page(RelayMetrics.make().registry).decode())
    worker = WorkerMetrics.make()
    worker.stage(JobKind.TRAIN, "load", 0.1)
    pages.append(page(worker.registry).decode())
    server = CollectorRegistry()
    AnswerLog(cast(Source, None), server)  # it asks nothing of a source before it starts
    pages.append(page(server).decode())
    return {
        sample.name: (set(sample.labels), family)
        for text in pages
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("melo_")
    }


def expressions():
    dashboard = json.loads((ROOT / "docker/grafana/melo.json").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ()))
    alerts = yaml.safe_load((ROOT / "docker/prometheus-alerts.yml").read_text())
    yield from (rule["expr"] for group in alerts["groups"] for rule in group["rules"])


def test_the_dashboard_and_the_alerts_ask_for_metrics_and_labels_that_exist(exported):
    asked = list(expressions())
    assert len(asked) > 30
    assert {name for text in asked for name in METRIC.findall(text)} - exported.keys() == set()
    for text in asked:
        for name, selected in SELECTOR.findall(text):
            assert set(re.findall(r"(\w+)(?:=~|!=|=)", selected)) <= exported[name][0] | ADDED, text
        for labels, name in GROUPED.findall(text):
            assert set(labels.split(", ")) <= exported[name][0] | ADDED, text
        if "_bucket" in text:
            assert "histogram_quantile" in text and "by (le" in text


def test_the_dashboard_can_be_imported_and_provisioned():
    dashboard = json.loads((ROOT / "docker/grafana/melo.json").read_text())
    (source,) = dashboard["templating"]["list"]  # unlike __inputs, it also works where nobody is there to choose
    assert (source["name"], source["type"], source["query"]) == ("DS_PROMETHEUS", "datasource", "prometheus")
    shown = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in shown} == {"${DS_PROMETHEUS}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


@pytest.fixture
def text():
    return (ROOT / "docs/operations.md").read_text()


def test_the_page_about_operations_has_every_metric_with_its_type_and_labels_and_no_other(exported, text):
    rows = re.findall(r"^\| `(melo_\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    there: dict[str, tuple[str, set[str]]] = {}
    for labels, family in exported.values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        there[name] = (family.type, there.get(name, ("", set()))[1] | labels - {"le"})
    assert told == there


def test_the_page_about_operations_says_what_to_do_about_every_alert(text):
    alerts = yaml.safe_load((ROOT / "docker/prometheus-alerts.yml").read_text())
    names = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    assert set(re.findall(r"^\| (Melo\w+) \|", text, re.MULTILINE)) == names
