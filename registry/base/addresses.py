"""Read the addresses of the database and the broker. They hold passwords, so that no message ever repeats one."""

import re
from urllib.parse import parse_qs, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from registry.base.errors import InvalidRequest

_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+psycopg)?://")
_ENCODED = "In a user's name or a password, write %40 for @, %3A for :, %2F for /, %3F for ?, %23 for # and %25 for %."


def of_database(url: str) -> dict[str, str]:
    """Return libpq's parameters of a database's address.

    url: as libpq reads it (postgresql://user:password@host:5432,other:5432/name?sslmode=verify-full, or pairs such as
    host=db dbname=melo), or with SQLAlchemy's postgresql+psycopg://. Raises InvalidRequest.
    """
    text = url.strip()
    try:
        if not text or _is_misread(text):
            raise ProgrammingError
        found = conninfo_to_dict(_SCHEME.sub("postgresql://", text))
    except ProgrammingError:
        raise InvalidRequest(
            "The database's URL (MELO_DATABASE_URL) cannot be read.",
            "Write postgresql://user:password@host:5432/database; several hosts are host:5432,other:5432. " + _ENCODED,
        ) from None
    return {name: str(value) for name, value in found.items() if value is not None and value != ""}


def without_password(url: str) -> str:
    """Return a database's address for people: who connects where, and no secret."""
    given = of_database(url)
    hosts = given.get("host", given.get("hostaddr", "localhost")).split(",")
    ports = given.get("port", "").split(",")
    if len(ports) < len(hosts):  # one for all
        ports = ports[:1] * len(hosts)
    user = f"{given['user']}@" if "user" in given else ""
    if any(host.startswith("/") for host in hosts):  # folders of sockets
        return f"postgresql://{user}/{given.get('dbname', '')}?host={','.join(hosts)}"
    places = (f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    return f"postgresql://{user}{','.join(places)}/{given.get('dbname', '')}"


def of_broker(url: str) -> str:
    """Return the broker's address, as redis and kombu read it. Raises InvalidRequest.

    With rediss:// the server's certificate is verified, unless the address itself says ssl_cert_reqs=none: left to
    itself, kombu verifies none.
    """
    text = url.strip()
    try:
        parts = urlsplit(text)
        misread = parts.scheme not in ("redis", "rediss") or parts.port == 0 or bool(parts.fragment)
        misread = misread or not re.fullmatch(r"/?\d*", parts.path) or parts.netloc.count("@") > 1
    except ValueError:
        misread = True
    if misread:
        raise InvalidRequest(
            "The broker's URL (MELO_REDIS_URL) cannot be read.",
            f"Write redis://:password@host:6379/0, or rediss:// for TLS. {_ENCODED}",
        )
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        text += f"{'&' if parts.query else '?'}ssl_cert_reqs=required"
    return text


def _is_misread(url: str) -> bool:
    """Tell whether libpq would take a part of the password for a host, port or database, and then print it."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        return "://" in url.partition("=")[0]
    place, _, query = url[scheme.end() :].partition("?")
    authority, _, path = place.partition("/")
    hosts = authority.rpartition("@")[2]
    ports = (re.sub(r"\[[^\]]*\]", "", each).partition(":")[2] for each in hosts.split(","))
    return (
        authority.count("@") > 1
        or "@" in path
        or any(port and not port.isdecimal() for port in ports)
        or len(re.findall(r"(?:^|&)host=", query)) > 1  # SQLAlchemy's way to name several: libpq would take the last
    )
