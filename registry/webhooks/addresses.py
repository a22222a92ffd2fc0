"""The addresses to which events may be sent: nobody may make this server call its own network (SSRF)."""

import re
import socket
import threading
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from registry.base.errors import InvalidRequest

LOOK_UP_SECONDS = 2.0
_HOST = re.compile(r"[a-z0-9._:-]+", re.IGNORECASE)
# Names that mean this machine or its network, whatever a resolver knows (RFC 6761, 6762, 8375; ICANN for internal).
_INSIDE = (".localhost", ".localdomain", ".local", ".internal", ".home.arpa")
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")  # of IPv6, all that is given out for the internet; NAT64 stands outside
# Of IANA's registries of special-purpose addresses: what is_global calls public, or did in some Python.
_SPECIAL = tuple(
    ip_network(each)
    for each in (
        "192.0.0.0/24",  # protocol assignments; .9 and .10 are answered by the nearest gateway
        "192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24",  # AS112 and multicast tunnels: anycast
        "192.88.99.0/24", "2002::/16",  # 6to4
        "168.63.129.16/32",  # of every machine at Azure: its host
        "198.18.0.0/15", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",  # benchmarks and documentation
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32", "3fff::/20",  # documentation
        "2620:4f:8000::/48",  # AS112
    )
)  # fmt: skip


def require_sendable(url: str, *, allow_private: bool) -> httpx.URL:
    """Return the parsed URL. Raises InvalidRequest for anything but a receiver's address.

    A host that is an address is judged, however it is spelt; a name is not looked up.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise _refused(f"{url!r} is no URL: {error}.") from None
    host = host_of(parsed)
    if parsed.scheme not in ("http", "https") or not _is_host(host):
        raise _refused(f"{url!r} is no http or https address.")
    if parsed.userinfo or parsed.fragment:
        raise _refused("A webhook's URL has neither a user and password nor a fragment (#…).")
    if parsed.port is not None and not 0 < parsed.port < 1 << 16:
        raise _refused(f"A port is a number from 1 to 65535, and not {parsed.port}.")
    if not allow_private:
        name, address = host.rstrip(".").lower(), _numeric(host.rstrip("."))
        if not address and ("." not in name or f".{name}".endswith(_INSIDE)):
            raise _refused(f"{host} is not a public address.")
        require_public(parsed, address)
    return parsed


def require_receiver(url: str, *, allow_private: bool) -> httpx.URL:
    """Return the parsed URL of a new webhook, judged as when it is sent to: by what its name means now, if anything.

    Raises InvalidRequest.
    """
    parsed = require_sendable(url, allow_private=allow_private)
    if not allow_private:
        require_public(parsed, _looked_up_soon(parsed))
    return parsed


def look_up(url: httpx.URL) -> list[str]:
    """Return the host's current addresses. Raises OSError."""
    port = url.port or (443 if url.scheme == "https" else 80)
    found = socket.getaddrinfo(url.raw_host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def require_public(url: httpx.URL, addresses: list[str]) -> None:
    """Raise InvalidRequest if any of a host's addresses is not in the public internet."""
    for address in addresses:
        if not is_public(address):
            host = host_of(url)
            means = "" if host == address else f" means {address}, which"
            raise _refused(f"{host}{means} is not a public address.")


def is_public(address: str) -> bool:
    """Return whether an IP address is in the public internet, even if it is wrapped in an IPv6 address."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return _is_public(found.ipv4_mapped)
        if found in _NAT64:
            return _is_public(IPv4Address(int(found) & 0xFFFFFFFF))
        if found not in _UNICAST:
            return False
    return _is_public(found)


def _is_host(host: str) -> bool:
    """Tell whether a host is an address or a name that DNS can hold."""
    labels = host.removesuffix(".").split(".")
    fits = len(host) <= 253 and all(0 < len(label) <= 63 for label in labels)
    return _HOST.fullmatch(host) is not None and (fits or ":" in host)


def host_of(url: httpx.URL) -> str:
    """Return the host in ASCII: not every name of that form can be turned into Unicode."""
    return url.raw_host.decode("ascii")


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not any(address in each for each in _SPECIAL)


def _numeric(host: str) -> list[str]:
    """Return the address that a host is; none for a name. The system reads `127.1`, `0x7f.1` and `2130706433` too."""
    try:
        found = socket.getaddrinfo(host.encode(), None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return []
    return [str(each[4][0]) for each in found]


def _looked_up_soon(url: httpx.URL) -> list[str]:
    """Return the host's current addresses; none if it has none yet, or if the resolver takes long."""
    found: list[str] = []

    def act() -> None:
        try:
            found.extend(look_up(url))
        except OSError:
            return  # the receiver may come later

    thread = threading.Thread(target=act, daemon=True)  # name resolution cannot be interrupted
    thread.start()
    thread.join(LOOK_UP_SECONDS)
    return list(found)


def _refused(detail: str) -> InvalidRequest:
    return InvalidRequest(
        detail,
        "Give an address such as https://example.org/melo. Receivers in this server's own network are reached only "
        "where it runs with MELO_WEBHOOK_ALLOW_PRIVATE=true.",
    )
