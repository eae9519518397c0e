"""The settings choose the provider; contradictory or incomplete ones are refused."""

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from reelkeeper.adapters.providers import connect
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
