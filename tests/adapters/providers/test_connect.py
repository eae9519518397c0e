"""The settings choose the provider; contradictory or incomplete ones are refused."""

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from reelkeeper.adapters.providers import billing, check_sources, connect
from reelkeeper.errors import AddressRefused, Misconfigured
from reelkeeper.model.jobs import Served
from reelkeeper.settings import Settings

KEY, URL = SecretStr("a key of a provider's"), "https://provider.example/v1"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"generator_url": URL}, "http"),
        ({"generator": "http", "generator_url": URL}, "http"),
        ({"generator": "fal", "generator_token": KEY}, "fal"),
        ({"generator": "replicate", "generator_token": KEY, "generator_url": URL}, "replicate"),
        ({"generator": "openai", "generator_url": URL}, "openai"),
    ],
)
def test_a_vendor_of_earlier_settings_alone_makes_what_the_catalogue_gives_to_nobody(
    given: dict[str, Any], name: str
) -> None:
    assert connect(Settings(**given)).served == Served(frozenset({name}), name)


@pytest.mark.parametrize(
    ("given", "names", "default"),
    [
        ({}, {"local"}, "local"),
        ({"generator": "local"}, {"local"}, "local"),
        ({"fal_token": KEY}, {"fal"}, "fal"),
        ({"openai_url": URL}, {"openai"}, "openai"),
        ({"fal_token": KEY, "runway_token": KEY}, {"fal", "runway"}, None),
        ({"fal_token": KEY, "runway_token": KEY, "generator": "runway"}, {"fal", "runway"}, "runway"),
        ({"fal_token": KEY, "generator": "local"}, {"fal", "local"}, "local"),
        ({"fal_token": KEY, "generator": "http", "http_url": URL}, {"fal", "http"}, "http"),
        (
            {f"{name}_url": URL for name in ("http", "openai", "comfyui")}
            | {f"{name}_token": KEY for name in ("fal", "replicate", "runway", "openrouter")},
            {"http", "openai", "comfyui", "fal", "replicate", "runway", "openrouter"},
            None,
        ),
    ],
)
def test_every_vendor_that_is_set_up_is_served_by_one_worker(
    given: dict[str, Any], names: set[str], default: str | None
) -> None:
    assert connect(Settings(**given)).served == Served(frozenset(names), default)


def test_each_vendor_has_an_address_and_a_secret_of_its_own_for_its_calls() -> None:
    secrets: dict[str, Any] = {
        f"{name}_webhook_secret": SecretStr(f"{name}'s") for name in ("fal", "replicate", "http")
    }
    found = Settings(hooks_url="https://ours.example/", **secrets)
    for name in ("fal", "replicate", "http"):
        assert found.access(name)[2:] == (f"https://ours.example/hooks/{name}", f"{name}'s")
    assert found.access("runway") == (None, "", None, None)
    earlier = Settings(generator="fal", generator_token=KEY, generator_webhook_url=URL, generator_webhook_secret=KEY)
    assert earlier.access("fal") == (None, KEY.get_secret_value(), URL, KEY.get_secret_value())
    assert earlier.access("replicate") == (None, "", None, None)


def test_the_default_model_is_for_the_vendor_of_models_that_the_catalogue_gives_to_nobody() -> None:
    found = connect(Settings(fal_token=KEY, runway_token=KEY, generator="runway", generator_model="gen4.5"))
    models = {name: getattr(generator, "_model", "") for name, generator in found.by_name.items()}
    assert models == {"fal": None, "runway": "gen4.5"}


@pytest.mark.parametrize(
    "given",
    [
        {"generator": "fal"},
        {"generator": "replicate", "replicate_url": URL},
        {"generator": "openai", "openai_token": KEY},
        {"generator": "comfyui"},
        {"generator": "http"},
        {"generator": "another"},
        {"generator": "fal", "runway_token": KEY},
        {"openai_token": KEY},
        {"generator": "local", "generator_url": URL},
    ],
)
def test_incomplete_provider_settings_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**given)


@pytest.mark.parametrize("name", ["openrouter", "fal"])
def test_an_account_is_read_only_where_the_vendor_is_set_up_and_lists_its_jobs(name: str) -> None:
    settings = Settings(openrouter_token=KEY, runway_token=KEY)
    assert billing(settings, "runway")
    with pytest.raises(Misconfigured):
        billing(settings, name)


def test_hosts_are_read_between_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELKEEPER_GENERATOR_HOSTS", "cdn.example, files.example")
    assert Settings().generator_hosts == ("cdn.example", "files.example")


@pytest.mark.parametrize(
    "given",
    [
        {"runway_token": KEY, "generator_hosts": ("*.cloudfront.net",)},
        {"runway_token": KEY, "generator_hosts": ("https://cdn.example/",)},
        {"http_url": "https://127.0.0.1/", "generator_hosts": ("CDN.example",)},
    ],
)
def test_settings_that_would_have_paid_videos_refused_are_found(given: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured):
        check_sources(Settings(**given))


def test_an_address_that_is_refused_is_found_and_one_that_is_not_is_shown_with_the_hosts_of_videos() -> None:
    given: dict[str, Any] = {"openai_url": "http://127.0.0.1:8000/v1"}
    with pytest.raises(AddressRefused):
        check_sources(Settings(**given))
    shown = check_sources(Settings(**given, allow_private_addresses=True, generator_hosts=("cdn.example",)))
    assert {"127.0.0.1", "cdn.example"} <= {*shown.replace(",", "").split()}
