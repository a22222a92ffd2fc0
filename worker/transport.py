"""The broker's transport: Celery's for Redis, which takes only messages that are in the form that the relay sends.

Celery ends at one that is no JSON, and connects again at others. No job needs a particular message, so one that is
malformed can be put aside.
"""

import base64
from typing import Annotated, Any, Literal

import structlog
from kombu.transport import redis as kombu_redis
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Json, ValidationError

from registry.jobs import outbox

log = structlog.get_logger()

PUT_ASIDE = "melo.malformed"  # a list in the broker, newest first
MOST_PUT_ASIDE = 100
_LARGEST = 64 * 1024  # bytes


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Headers(_Part):
    task: Literal[outbox.TRAIN]  # type: ignore[valid-type]
    id: str
    retries: int = 0
    eta: None = None
    expires: None = None
    timelimit: Annotated[list[None], Field(max_length=2)] | None = None


class _DeliveryInfo(_Part):
    exchange: str
    routing_key: str


class _Properties(_Part):
    delivery_tag: str
    delivery_info: _DeliveryInfo
    delivery_mode: int
    priority: int
    body_encoding: Literal["base64"]
    correlation_id: str | None = None


def _decoded(body: object) -> bytes:
    return base64.b64decode(str(body), validate=True)


class _Message(_Part):
    body: Annotated[Json[tuple[list[int], dict[str, None], dict[str, Any]]], BeforeValidator(_decoded)]
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    content_type: Literal["application/json"] = Field(alias="content-type")
    headers: _Headers
    properties: _Properties


class Channel(kombu_redis.Channel):
    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
        client.set_response_callback("BRPOP", self._sorted)
        return client

    def _sorted(self, answer: list[bytes] | None, **options: Any) -> tuple[bytes, bytes] | None:
        """Return the queue's key and the message; None, as if there were no message, where it is put aside."""
        if not answer:
            return None
        key, message = answer
        try:
            if len(message) > _LARGEST:
                raise ValueError(f"it has {len(message)} bytes")
            _Message.model_validate_json(message)
        except ValueError as error:
            self._put_aside(key, message, error)
            return None
        return key, message

    def _put_aside(self, key: bytes, message: bytes, error: ValueError) -> None:
        why = error.errors(include_input=False)[0]["msg"] if isinstance(error, ValidationError) else str(error)
        log.warning("a malformed message is put aside", queue=key.decode(errors="replace"), list=PUT_ASIDE, why=why)
        with self.conn_or_acquire() as client:
            client.lpush(PUT_ASIDE, message[:_LARGEST])
            client.ltrim(PUT_ASIDE, 0, MOST_PUT_ASIDE - 1)


class Transport(kombu_redis.Transport):
    Channel = Channel
