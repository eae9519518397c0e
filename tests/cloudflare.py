"""Fixtures: Cloudflare's API on a local port, and a client whose clock the test controls."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from reelkeeper.adapters.cloudflare import Client
from reelkeeper.adapters.cloudflare.api import Api
from tests.doubles.cloudflare import ACCOUNT, TOKEN, CloudflareDouble


@dataclass
class Time:
    """A clock that moves only as something waits, and how long each wait was."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture(scope="session")
def cloudflare_of_session() -> Iterator[CloudflareDouble]:
    with CloudflareDouble().serving() as double:
        yield double


@pytest.fixture
def cloudflare(cloudflare_of_session: CloudflareDouble) -> CloudflareDouble:
    """Cloudflare, with an account in which nothing was used yet."""
    cloudflare_of_session.reset()
    return cloudflare_of_session


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def api(cloudflare: CloudflareDouble, time: Time) -> Iterator[Api]:
    api = Api(cloudflare.url, ACCOUNT, TOKEN, clock=lambda: time.now, sleep=time.sleep)
    yield api
    api.close()


@pytest.fixture
def client(api: Api) -> Client:
    """A client with the right token. Pages are small, so that few rows make many."""
    return Client(api, page_rows=10)
