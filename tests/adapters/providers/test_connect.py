"""The settings choose the provider; contradictory or incomplete ones are refused."""

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from reelkeeper.adapters.providers import check_sources, connect
from reelkeeper.errors import AddressRefused, Misconfigured
from reelkeeper.settings import Settings

KEY, URL = SecretStr("a key of a provider's"), "https://provider.example/v1"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "local"),
        ({"generator": "local"}, "local"),
        ({"generator_url": URL}, "http"),
        ({"generator": "http", "generator_url": URL}, "http"),
        ({"generator": "fal", "generator_token": KEY}, "fal"),
        ({"generator": "replicate", "generator_token": KEY, "generator_url": URL}, "replicate"),
        ({"generator": "runway", "generator_token": KEY}, "runway"),
        ({"generator": "openai", "generator_url": URL}, "openai"),
        ({"generator": "comfyui", "generator_url": URL}, "comfyui"),
    ],
)
def test_the_configured_generator_is_returned(given: dict[str, Any], name: str) -> None:
    assert connect(Settings(**given)).name == name


@pytest.mark.parametrize(
    "given",
    [
        {"generator": "fal"},
        {"generator": "replicate", "generator_url": URL},
        {"generator": "openai", "generator_token": KEY},
        {"generator": "comfyui"},
        {"generator": "http"},
        {"generator": "local", "generator_url": URL},
        {"generator": "another"},
    ],
)
def test_incomplete_provider_settings_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="generator"):
        Settings(**given)


def test_hosts_are_read_between_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_GENERATOR_HOSTS", "cdn.example, files.example")
    assert Settings().generator_hosts == ("cdn.example", "files.example")


@pytest.mark.parametrize(
    "given",
    [
        {"generator": "runway", "generator_token": KEY, "generator_hosts": ("*.cloudfront.net",)},
        {"generator": "runway", "generator_token": KEY, "generator_hosts": ("https://cdn.example/",)},
        {"generator": "http", "generator_url": "https://127.0.0.1/", "generator_hosts": ("CDN.example",)},
    ],
)
def test_settings_that_would_have_paid_videos_refused_are_found(given: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        check_sources(Settings(**given))


def test_an_address_that_is_refused_is_found_and_one_that_is_not_is_shown_with_the_hosts_of_videos() -> None:
    given: dict[str, Any] = {"generator": "openai", "generator_url": "http://127.0.0.1:8000/v1"}
    with pytest.raises(AddressRefused):
        check_sources(Settings(**given))
    shown = check_sources(Settings(**given, allow_private_addresses=True, generator_hosts=("cdn.example",)))
    assert {"127.0.0.1", "cdn.example"} <= {*shown.replace(",", "").split()}
