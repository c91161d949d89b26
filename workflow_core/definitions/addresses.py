"""Which addresses of the network a redirect may lead to."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

__all__ = ["is_public", "pinned"]

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All that the IANA gives out of IPv6; what `ipaddress` knows as global holds former site-local addresses, too."""


def is_public(address: str) -> bool:
    """Tell whether an address is one of the Internet: not private, loopback, link-local, reserved or multicast."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is None:
            return found.is_global and found in _GLOBAL_UNICAST
        found = inner
    return found.is_global and not found.is_multicast


def pinned(host: str, port: int) -> str | None:
    """Look a host up, and return an address of it to connect to; ``None`` if one of its addresses is not public.

    A host that has a public and a private address is refused as a whole: which of them a client takes is luck.

    Raises:
        httpx.ConnectError: The host is not known.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        import httpx  # noqa: PLC0415 - an extra

        raise httpx.ConnectError(str(error)) from error
    addresses = [str(entry[4][0]) for entry in found]
    return addresses[0] if addresses and all(is_public(address) for address in addresses) else None
