"""A URL that others may choose connects only to public addresses."""

import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from reelkeeper.adapters import public
from reelkeeper.adapters.public import is_public, resolve, streamed
from reelkeeper.errors import AddressRefused
from tests.doubles.provider import ProviderDouble

_CONNECTED: list[Any] = []
_HEARS: list[bool] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and _HEARS:
        _CONNECTED.append(arguments[1])


sys.addaudithook(_note)  # for good: an audit hook cannot be taken away, so it listens only while `connections` is open


@pytest.fixture
def connections() -> Iterator[list[Any]]:
    """Every address that this process connects to, by whatever library."""
    _CONNECTED.clear()
    _HEARS.append(True)
    yield _CONNECTED
    _HEARS.clear()


Names = Callable[[dict[str, list[str]]], None]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """Resolve names to these addresses; each lookup takes the next item of a list of lists."""
    real = socket.getaddrinfo

    def name(known: dict[str, list[str]]) -> None:
        def look_up(host: str, port: int, **how: int) -> list[Any]:
            if host not in known:
                return list(real(host, port, type=how["type"]))
            kind = {True: socket.AF_INET6, False: socket.AF_INET}
            return [(kind[":" in text], socket.SOCK_STREAM, 6, "", (text, port)) for text in known[host]]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return name


NOT_PUBLIC = [
    "127.0.0.1", "127.8.9.1", "0.0.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.127.255.254", "192.0.0.1", "192.0.2.7", "198.18.0.1", "198.51.100.7", "203.0.113.7", "224.0.0.1",
    "239.1.2.3", "240.0.0.1", "255.255.255.255", "192.88.99.1", "[::1]", "[::]", "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::a00:1]",
    "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2001:0:7f00:1::]", "[fe80::1]", "[fec0::1]", "[fc00::1]",
    "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]",
]  # fmt: skip
WRITTEN_OTHERWISE = [
    "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "localhost", "localhost.", "LOCALHOST", "ip6-localhost",
    "metadata.google.internal", "no-such-name.invalid",
]  # fmt: skip
URLS = [f"https://{host}/hook" for host in NOT_PUBLIC + WRITTEN_OTHERWISE] + [
    "http://1.1.1.1/", "ftp://1.1.1.1/", "file:///etc/passwd", "gopher://1.1.1.1/", "//1.1.1.1/", "1.1.1.1", "",
    "https://", "https:///path", "https://user@1.1.1.1/", "https://user:password@1.1.1.1/", "https://1.1.1.1:port/",
    "https://1.1.1.1:99999/", "https://127.0.0.1#@1.1.1.1/", "https://127.0.0.1?@1.1.1.1/", "https://[::1",
    "https://1.1.1.1@127.0.0.1/", "https://127.0.0.1\\@1.1.1.1/", "https://①②⑦.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_no_connection_is_made_to_an_address_that_is_not_public(url: str, connections: list[Any]) -> None:
    with pytest.raises(AddressRefused), streamed("POST", url, content=b"{}"):
        pass
    assert [
        connection for connection in connections if isinstance(connection, tuple) and connection[1] != 53
    ] == []  # but for a name server


def test_a_name_is_refused_when_one_of_its_addresses_is_not_public(names: Names, connections: list[Any]) -> None:
    names({"mixed.example": ["1.1.1.1", "10.0.0.1"]})
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"), streamed("GET", "https://mixed.example/"):
        pass
    assert connections == []


def test_a_name_that_changes_its_address_after_it_was_judged_gains_nothing(names: Names) -> None:
    names({"turns.example": ["1.1.1.1"]})
    at, needed = resolve("https://turns.example:8443/hook?x=1")
    names({"turns.example": ["127.0.0.1"]})
    assert str(at) == "https://1.1.1.1:8443/hook?x=1"
    assert needed["headers"] == {"Host": "turns.example:8443"}
    assert needed["extensions"] == {"sni_hostname": "turns.example"}


def test_the_certificate_is_asked_for_by_name_although_the_address_is_what_is_connected_to(names: Names) -> None:
    names({"six.example": ["2606:4700:4700::1111"]})
    at, needed = resolve("https://six.example/")
    assert at.host == "2606:4700:4700::1111"
    assert needed["extensions"]["sni_hostname"] == "six.example"


def test_public_addresses_are_public() -> None:
    assert all(map(is_public, ["1.1.1.1", "8.8.8.8", "104.16.0.1", "2606:4700:4700::1111", "2a00:1450:4001::1"]))


def test_a_redirect_is_not_followed(connections: list[Any]) -> None:
    with ProviderDouble().serving() as double:
        double.queue = [(302, "http://169.254.169.254/latest/meta-data/")]
        with streamed("POST", f"{double.url}/jobs", allow_private=True, content=b"{}") as answer:
            assert answer.status_code == 302
    assert {connection[0] for connection in connections} == {"127.0.0.1"}


def test_no_proxy_is_used(monkeypatch: pytest.MonkeyPatch, connections: list[Any]) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with ProviderDouble().serving() as double:
        with streamed("GET", f"{double.url}/video.mp4", allow_private=True) as answer:
            assert public.read(answer) == b"a video"
        assert {connection[1] for connection in connections} == {int(double.url.rpartition(":")[2])}


def test_why_tls_failed_is_said() -> None:
    with ProviderDouble().serving() as double:
        port = int(double.url.rpartition(":")[2])
        with (
            pytest.raises(httpx.ConnectError) as raised,
            streamed("GET", f"https://127.0.0.1:{port}/", allow_private=True),
        ):
            pass
    assert "SSL" in public.cause(raised.value)


def test_an_answer_that_does_not_end_is_cut() -> None:
    with ProviderDouble(b"x" * 100_000).serving() as double:  # noqa: SIM117  the second raises
        with (
            pytest.raises(httpx.RemoteProtocolError, match="65,536"),
            streamed("GET", f"{double.url}/video.mp4", allow_private=True) as answer,
        ):
            public.read(answer)
