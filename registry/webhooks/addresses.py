"""The addresses to which events may be sent: nobody may make this server call its own network (SSRF)."""

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx

from registry.base.errors import InvalidRequest

_HOST = re.compile(r"[a-z0-9._:-]+", re.IGNORECASE)
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")


def require_sendable(url: str, *, allow_private: bool) -> httpx.URL:
    """Raise InvalidRequest for anything but a receiver's address. Names are resolved when a message is sent."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise _refused(f"{url!r} is no URL: {error}.") from None
    if parsed.scheme not in ("http", "https") or not _HOST.fullmatch(parsed.raw_host.decode("ascii")):
        raise _refused(f"{url!r} is no http or https address.")
    if parsed.userinfo or parsed.fragment:
        raise _refused("A webhook's URL has neither a user and password nor a fragment (#…).")
    if not allow_private and (parsed.host.lower() == "localhost" or not _is_public_if_literal(parsed.host)):
        raise _refused(f"{parsed.host} is not a public address.")
    return parsed


def is_public(address: str) -> bool:
    """Return whether an IP address is in the public internet, even if it is wrapped in an IPv6 address."""
    return all(_is_public(each) for each in _meant(ip_address(address.partition("%")[0])))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether the address is public.

    Of IPv6, only what is allocated for the internet counts: there are more special ranges than a Python version knows.
    """
    given_out = isinstance(address, IPv4Address) or address in _UNICAST or address in _NAT64
    return given_out and address.is_global and not address.is_multicast


def _meant(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Return the address, and the IPv4 addresses that a network would reach through it."""
    if isinstance(address, IPv4Address):
        return [address]
    wrapped = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        wrapped.append(IPv4Address(int(address) & 0xFFFFFFFF))
    inner = [each for each in wrapped if each is not None]
    # A mapped address is only another spelling of the IPv4 one, and is not global by itself.
    return list(inner) if address.ipv4_mapped else [address, *inner]


def _is_public_if_literal(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:  # a host name
        return True


def _refused(detail: str) -> InvalidRequest:
    return InvalidRequest(
        detail,
        "Give an address such as https://example.org/melo. Receivers in this server's own network are reached only "
        "where it runs with MELO_WEBHOOK_ALLOW_PRIVATE=true.",
    )
