"""Connect only to public addresses: a URL that others choose must not reach our own network.

A name is resolved once, all its addresses are checked, and the connection goes to a checked address, so that a name
which changes its address in between gains nothing. Redirects are not followed, and proxies are not used.
"""

import ipaddress
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from reelkeeper.errors import AddressRefused

TIMEOUT_SECONDS = 10.0
MAX_BYTES = 64 * 1024
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# Routed elsewhere, or to an IPv4 address that they contain (RFC 6890, 7526, 8215).
_CARRIERS = tuple(
    map(ipaddress.ip_network, ("2001::/23", "2002::/16", "64:ff9b::/96", "64:ff9b:1::/48", "192.88.99.0/24"))
)


def is_public(address: str) -> bool:
    """Check that an IP address is public and identifies a single machine.

    >>> [is_public(one) for one in ("1.1.1.1", "10.0.0.1", "100.64.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
    [True, False, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    # guard public.ipv6: an address inside our network is reached by IPv6
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    # guard public.carried: an address inside our network is reached through an address that embeds it
    carried = any(ip.version == network.version and ip in network for network in _CARRIERS)
    # guard public.is_global: a provider's URL reads the machine's secrets from its metadata service
    # guard public.multicast: a URL reaches all machines of our network
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or carried)


def resolve(url: str, *, allow_private: bool = False) -> tuple[httpx.URL, dict[str, Any]]:
    """Return the URL with a checked address instead of its host, and the further arguments of a request to it.

    Raises AddressRefused unless it is https without a user, and every address of its host is public.
    """
    try:
        parts, parsed = urlsplit(url), httpx.URL(url)
        host, port = parsed.host, parts.port or (443 if parts.scheme == "https" else 80)
    except (ValueError, httpx.InvalidURL):
        raise AddressRefused("not a valid URL") from None
    # guard public.https: a provider's data can be read and changed in transit
    if parts.scheme not in (("https", "http") if allow_private else ("https",)):
        raise AddressRefused(f"{parts.scheme or 'no scheme'}: a URL must begin with https://")
    # guard public.no_user: a URL shows one host to a reader and another to a program
    if not host or parts.username is not None or parts.password is not None:
        raise AddressRefused("a URL must have a host, and no user")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise AddressRefused(f"{host[:100]!r} cannot be resolved") from None
    addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
    # guard public.every_address: a name with one public address leads into our network
    if not allow_private and (hidden := [text for text in addresses if not is_public(text)]):
        raise AddressRefused(
            f"{host[:100]!r} is {hidden[0]}, which is not public. To allow addresses of your own network: "
            "REELKEEPER_ALLOW_PRIVATE_ADDRESSES=true"
        )
    address = addresses[0].partition("%")[0]
    return (
        # guard public.judged_address: a name whose address changes after the check leads into our network
        parsed.copy_with(host=f"[{address}]" if ":" in address else address),
        {"headers": {"Host": parsed.netloc.decode()}, "extensions": {"sni_hostname": host}},
    )


@cache
def _tls() -> ssl.SSLContext:
    """Load the certificate authorities once, which takes longer than most requests."""
    return httpx.create_ssl_context(trust_env=False)


def cause(error: Exception) -> str:
    """Name the error of a failed request without its URL; with the reason, where no connection was made.

    >>> cause(httpx.ConnectError("[Errno 111] Connection refused"))
    'ConnectError: [Errno 111] Connection refused'
    """
    if isinstance(error, AddressRefused):
        return str(error)
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, httpx.ConnectError) and str(error) else name


def options(timeout_seconds: float) -> dict[str, Any]:
    """Return the arguments of a client of httpx that reaches the resolved address and nobody else."""
    return {
        "timeout": timeout_seconds,
        # guard public.redirects: a provider's redirect leads into our network
        "follow_redirects": False,
        # guard public.no_proxy: a proxy of the environment resolves the name again, and reaches a refused address
        "trust_env": False,
        "verify": _tls(),
    }


@contextmanager
def streamed(
    method: str,
    url: str,
    *,
    allow_private: bool = False,
    headers: dict[str, str] | None = None,
    content: bytes | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Iterator[httpx.Response]:
    """Send a request and yield the response before its body is read. Raises AddressRefused and httpx's errors."""
    at, needed = resolve(url, allow_private=allow_private)
    with (
        httpx.Client(**options(timeout_seconds)) as client,
        client.stream(
            method,
            at,
            headers={"Accept-Encoding": "identity", **(headers or {}), **needed["headers"]},
            content=content,
            extensions=needed["extensions"],
        ) as answer,
    ):
        yield answer


def read(answer: httpx.Response, most_bytes: int = MAX_BYTES) -> bytes:
    """Read the body of a response, at most `most_bytes`. Raises httpx.RemoteProtocolError for a larger one."""
    return b"".join(chunks(answer, most_bytes))


def chunks(answer: httpx.Response, most_bytes: int) -> Iterator[bytes]:
    """Yield the body of a response in chunks. Raises httpx.RemoteProtocolError if it is too large."""
    size = 0
    for chunk in answer.iter_raw():
        size += len(chunk)
        # guard public.size: an endless answer fills memory or disk
        if size > most_bytes:
            raise httpx.RemoteProtocolError(f"the answer is larger than {most_bytes:,} bytes")
        yield chunk
