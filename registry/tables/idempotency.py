"""Table: the answers of requests that carried an Idempotency-Key."""

from sqlalchemy import Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from registry.tables.orm import Base, Json, Moment, Sha256


class KeptAnswer(Base):
    """A stored answer: written in the transaction of its effect, never changed, deleted when it is a day old."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"),)

    scope: Mapped[str] = mapped_column(primary_key=True)  # the owner of the key
    key: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str]
    path: Mapped[str]
    request_digest: Mapped[Sha256]  # over method, path, query and body
    status: Mapped[int] = mapped_column(Integer)
    headers: Mapped[Json]
    body: Mapped[bytes | None]  # None: it held a secret, which is given only once
    created_at: Mapped[Moment]
