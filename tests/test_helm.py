"""The Helm chart, rendered by Helm's own engine: valid by Kubernetes' schemas, without rights, and its queries run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, text

from registry.base.settings import Settings
from tests.registry.conftest import model_folder, workflow
from tests.registry.workflow import Workflow

helm = pytest.importorskip("helm_python.chart")  # for Linux on x86-64 alone

__all__ = ["model_folder", "workflow"]

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy/helm/melo"
KUBERNETES = "1.33"
NEEDED: dict[str, Any] = {
    "secret": {"databaseUrl": "postgresql://u:p@db/melo", "redisUrl": "redis://r/0", "apiKey": "k", "signingKey": "s"}
}
ALL: dict[str, Any] = {
    "secret": {**NEEDED["secret"], "metricsKey": "m"},
    "env": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"},
    "images": {"pullSecrets": ["pull"]},
    "models": {"existingClaim": "models"},
    "worker": {"models": ["a", "b"], "autoscaling": {"enabled": True}, "nodeSelector": {"gpu": "yes"}},
    "serve": {
        "servers": [{"name": "small"}, {"name": "large", "model": "large-model"}],
        "arguments": ["--slots", "32"],
        "autoscaling": {"enabled": True, "prometheusUrl": "http://prometheus:9090"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    },
    "podMonitor": {"enabled": True},
    "networkPolicy": {"enabled": True, "clients": [{"podSelector": {"matchLabels": {"app": "web"}}}]},
}


def rendered(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name="team", namespace="ns")
    texts = [content for path, content in files.items() if not path.endswith("NOTES.txt")]
    return [each for content in texts for each in yaml.safe_load_all(content) if each]


def of_kind(kind: str, values: dict[str, Any] = ALL) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in rendered(values) if each["kind"] == kind}


def pods(values: dict[str, Any] = ALL) -> dict[str, dict[str, Any]]:
    found = of_kind("Deployment", values) | of_kind("Job", values)
    return {name: each["spec"]["template"]["spec"] for name, each in found.items()}


@pytest.mark.parametrize("values", [NEEDED, ALL], ids=["defaults", "everything"])
def test_helm_finds_nothing_wrong_and_every_object_is_valid_by_kubernetes_own_schemas(values: dict[str, Any]) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    report = helm.lint(CHART, values, strict=True)
    assert report["errors"] == [] and all(each["severity"] <= 1 for each in report["messages"])

    own = [
        each
        for each in rendered(values)
        if each["apiVersion"].split("/")[0] not in ("keda.sh", "monitoring.coreos.com")
    ]
    for each in own:
        kubernetes.validate(each, KUBERNETES, strict=True)

    assert len(own) >= 12
    own[0]["spec"]["replica"] = 2  # the schema can refuse
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(own[0], KUBERNETES, strict=True)


def test_values_are_documented_and_what_does_not_exist_is_refused() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())

    def alike(properties: dict[str, Any], values: dict[str, Any]) -> None:
        assert set(properties) - {"global"} == set(values)
        for name, each in properties.items():
            if each.get("properties"):
                alike(each["properties"], values[name])

    alike(schema["properties"], defaults)
    for wrong in ({"apii": {}}, {"api": {"replicas": "two"}}, {"secret": {"databaseUrl": "mysql://x"}}):
        with pytest.raises(Exception, match="don't meet the specifications"):
            rendered(NEEDED | wrong)
    with pytest.raises(Exception, match=r"databaseUrl, or secret\.existing, has to be set"):
        rendered({})
    with pytest.raises(Exception, match="prometheusUrl has to be set"):
        rendered(NEEDED | {"serve": {"autoscaling": {"enabled": True}}})


def test_every_pod_runs_without_rights_and_every_program_is_watched() -> None:
    found = pods()
    assert set(found) == {
        "team-melo-api", "team-melo-relay", "team-melo-worker", "team-melo-serve-small", "team-melo-serve-large",
        "team-melo-migrate",
    }  # fmt: skip
    for name, pod in found.items():
        (container,) = pod["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] == 10001
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["limits"]["memory"]
        if name.endswith("migrate"):
            continue
        ports = {port["name"] for port in container["ports"]}
        assert all(container[probe]["httpGet"]["port"] in ports for probe in ("livenessProbe", "readinessProbe"))

    def selected(kind: str) -> list[dict[str, str]]:
        return [each["spec"]["selector"]["matchLabels"] for each in of_kind(kind).values()]

    assert selected("PodDisruptionBudget") == selected("Deployment")


def test_programs_get_variables_that_exist_and_secrets_only_from_a_secret() -> None:
    known = {f"MELO_{name.upper()}" for name in Settings.model_fields} | {"OTEL_EXPORTER_OTLP_ENDPOINT"}
    for pod in pods().values():
        variables = pod["containers"][0]["env"]
        assert len({each["name"] for each in variables}) == len(variables)
        assert {each["name"] for each in variables} <= known
        plain = " ".join(str(each["value"]) for each in variables if "value" in each)
        assert "postgresql://" not in plain and "redis://" not in plain

    (secret,) = of_kind("Secret").values()
    assert secret["stringData"]["metrics-key"] == "m"
    theirs = {"secret": {"existing": "theirs"}}
    assert of_kind("Secret", theirs) == {}
    for pod in pods(theirs).values():
        sources = [each["valueFrom"]["secretKeyRef"] for each in pod["containers"][0]["env"] if "valueFrom" in each]
        assert {each["name"] for each in sources} == {"theirs"}
        assert {each["key"] for each in sources} >= {"database-url", "redis-url"}


def test_a_server_for_each_base_model_with_a_service_of_its_own() -> None:
    services = of_kind("Service")
    for name, model in (("team-melo-serve-small", ""), ("team-melo-serve-large", "large-model")):
        container = pods()[name]["containers"][0]
        assert {"name": "MELO_SERVE_MODEL", "value": model} in container["env"]
        assert container["command"] == ["melo", "serve", "--slots", "32"]
        labels = of_kind("Deployment")[name]["spec"]["template"]["metadata"]["labels"]
        assert services[name]["spec"]["selector"].items() <= labels.items()
    assert not any("serve" in name for name in pods(NEEDED | {"serve": {"enabled": False}}))


def test_workers_are_scaled_by_the_jobs_in_the_database(engine: Engine, workflow: Workflow) -> None:
    scaled = of_kind("ScaledObject")["team-melo-worker"]["spec"]
    (trigger,) = scaled["triggers"]
    assert "replicas" not in of_kind("Deployment")["team-melo-worker"]["spec"]
    assert of_kind("Deployment", NEEDED)["team-melo-worker"]["spec"]["replicas"] == 1
    authentication = of_kind("TriggerAuthentication")[trigger["authenticationRef"]["name"]]
    assert authentication["spec"]["secretTargetRef"][0]["key"] in of_kind("Secret")["team-melo"]["stringData"]

    def jobs() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text(trigger["metadata"]["query"])).scalar_one())

    assert jobs() == 0
    batch = workflow.submit({"prompt": "Who leads Rome?", "target": "Mara"}).batch
    assert batch is not None
    workflow.approve(batch.id)
    assert jobs() == 1


def test_servers_are_scaled_by_the_requests_that_wait() -> None:
    (trigger,) = of_kind("ScaledObject")["team-melo-serve-large"]["spec"]["triggers"]
    assert trigger["metadata"]["query"] == (
        'sum(vllm:num_requests_waiting{namespace="ns",pod=~"team-melo-serve-large-.*"})'
    )
    assert '"vllm:num_requests_waiting"' in (ROOT / "serving/metrics.py").read_text()
