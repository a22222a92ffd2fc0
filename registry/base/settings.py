"""The settings of an operator, with units, read from the environment at a program's entry point."""

import getpass
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def operating_system_user() -> str:
    """Return the login name, which a container's user often lacks."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def _rate(text: str) -> str:
    from limits import parse  # imported here because most commands need no limits

    try:
        parse(text)
    except ValueError:
        raise ValueError("it is not a rate such as 600/minute") from None
    return text


ROOT_PATH = r"^(/[A-Za-z0-9._~-]+)*/?$"
RootPath = Annotated[str, Field(pattern=ROOT_PATH)]


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such user") from None


class Settings(BaseSettings):
    """The settings. Each variable is named MELO_ and the field in capitals, such as MELO_DATABASE_URL."""

    model_config = SettingsConfigDict(
        env_prefix="MELO_", env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    database_url: str = Field(default="", description="PostgreSQL with pgvector; empty: the embedded server")
    redis_url: str = Field(default="", description="Redis or Valkey, the broker; empty: the embedded server")
    home: Annotated[Path, AfterValidator(_expanded)] = Field(
        default=Path("~/.melo"), validate_default=True, description="folder of the embedded servers and their logs"
    )
    cache: Path = Field(
        default=Path("~/.cache/melo"), description="folder of converted models; may be deleted at any time"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="numbers that models run in; auto: float32 on a CPU, else bfloat16"
    )
    api_url: str = Field(default="http://127.0.0.1:8410", description="where clients find the API")
    root_path: RootPath = Field(default="", description="path under which a proxy shows the API, such as /melo")
    api_key: SecretStr | None = Field(
        default=None,
        description="for a server: the operator's key, admin everywhere, besides the one in MELO_HOME; "
        "for `melo`: the key to send",
    )
    rate_limit: Annotated[str, AfterValidator(_rate)] = Field(
        default="600/minute", description="requests per key; the operator's keys have no limit"
    )
    trusted_proxies: str = Field(
        default="",
        validation_alias="FORWARDED_ALLOW_IPS",
        description="addresses and networks of proxies whose X-Forwarded-For and -Prefix are believed, with commas",
    )
    signing_key: SecretStr | None = Field(
        default=None,
        description="Ed25519 key that signs events, checkpoints and backups: path of a PEM file, or its text in "
        "base64; empty: the one in MELO_HOME",
    )
    signer: str = Field(
        default="", description="package.module:function that returns a signer in place of a key, such as one of a KMS"
    )
    public_keys: str = Field(
        default="",
        description="public keys, besides its own, whose signatures on events count: path of a file with one a line, "
        "or the keys with commas; empty: public-keys.txt in MELO_HOME",
    )
    actor: str = Field(default_factory=operating_system_user, description="who acts, as the record names them")
    statement_timeout_seconds: PositiveFloat = Field(default=30, description="longest SQL statement")
    max_request_bytes: PositiveInt = Field(default=64 * 2**20, description="largest request body")
    submission_tokens: PositiveInt = Field(
        default=1_000_000, description="most tokens of a submission's long prompts together; short ones do not count"
    )
    lease_seconds: PositiveFloat = Field(default=60, description="how long a worker may stay silent")
    resend_seconds: PositiveFloat = Field(
        default=120, description="after this long unclaimed, a queued job is sent again, then after twice as long"
    )
    retry_seconds: PositiveFloat = Field(
        default=5, description="pause after a failure that may pass; twice as long each further time"
    )
    job_seconds: PositiveFloat = Field(default=6 * 3600, description="longest work on one job")
    preflight_seconds: PositiveFloat = Field(default=1_800, description="longest preflight of a batch")
    preflight_near_misses: PositiveInt = Field(default=2_000, description="most near misses that a preflight tries")
    preflight_tokens: PositiveInt = Field(default=40_000, description="most tokens of a preflight's near misses")
    preflight_steps: PositiveInt = Field(
        default=10_000, description="most steps of a block's training in a preflight; more wait for the approval"
    )
    stop_seconds: PositiveFloat = Field(
        default=15, description="how long a worker that is told to stop may go on, before it gives its job back"
    )
    memory_limit_mb: PositiveInt | None = Field(
        default=None, description="memory a worker may take, of its GPU or of this machine; empty: no limit"
    )
    devices: str = Field(default="", description="devices to work on, such as 0,1 or cpu; empty: the best there is")
    metrics_host: str = Field(default="127.0.0.1", description="where relay and workers show metrics and health")
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = Field(
        default=None, description="port of metrics and health of a relay or worker; empty: none"
    )
    serve_host: str = Field(default="127.0.0.1", description="where `melo serve` listens")
    vllm_api_key: SecretStr | None = Field(
        default=None, description="the key (`--api-key`) of the vLLM servers that `melo serve --vllm` asks; empty: none"
    )
    serve_port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8420, description="port of `melo serve`")
    serve_root_path: RootPath = Field(default="", description="path under which a proxy shows `melo serve`")
    serve_registry: str = Field(
        default="", description="URL of the registry's API, from which `melo serve` gets versions; empty: the database"
    )
    serve_model: str = Field(
        default="", description="base model that `melo serve` has in memory; empty: that of the oldest collection"
    )
    serve_url: str = Field(
        default="", description="where `melo ask` and `melo chat` find a server; empty: the one on this machine"
    )
    relay_poll_seconds: PositiveFloat = Field(default=0.5, description="longest pause between outbox reads")
    webhook_allow_private: bool = Field(
        default=False, description="whether webhooks may be sent into this server's own network"
    )
