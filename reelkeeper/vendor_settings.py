"""Addresses and keys of the vendors that make videos: any number at once, each with settings of its own.

`REELKEEPER_FAL_TOKEN` alone has fal make videos. Earlier versions had one vendor, with `REELKEEPER_GENERATOR_URL`,
`_TOKEN`, `_WEBHOOK_URL` and `_WEBHOOK_SECRET`: they are still read, for the vendor that `REELKEEPER_GENERATOR` names.
"""

from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode

_NEEDS: Final = {  # what each vendor cannot be asked without
    "fal": "token",
    "replicate": "token",
    "runway": "token",
    "openrouter": "token",
    "openai": "url",
    "comfyui": "url",
    "http": "url",
}
HOOKS: Final = "/hooks"  # at `reelkeeper api`; each vendor's path below it is its name
_EARLIER: Final = "its setting of earlier versions, for the vendor that `generator` names"


class Access(NamedTuple):
    """How a vendor is reached, and how it reaches us; a `url` that is None is the vendor's own."""

    url: str | None
    token: str
    webhook_url: str | None
    webhook_secret: str | None


class VendorSettings(BaseSettings):
    """The settings of all vendors."""

    generator: Literal["fal", "replicate", "runway", "openrouter", "openai", "comfyui", "http", "local"] | None = Field(
        None,
        description="Provider of models for which the catalogue names none; if unset, the only one that is set up, or "
        "local (ffmpeg on this machine) if none is; of several, none is chosen, and such models are refused",
    )
    generator_model: str | None = Field(
        None,
        description="Model, as that provider names it, that makes all its videos without a vendor's price in the "
        "catalogue; the requested model if unset",
    )
    generator_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Additional hosts, and their subdomains, that providers' videos may be fetched from, separated "
        "by commas; if unset, any host for http, and the vendor's own for the others",
    )
    hooks_url: str | None = Field(
        None,
        description="Public URL of `reelkeeper api`, e.g. https://reelkeeper.example.com: providers with a webhook "
        "secret call /hooks/PROVIDER there when a job ends",
    )
    fal_token: SecretStr | None = Field(None, description="Key of fal; it makes videos if this is set")
    fal_webhook_secret: SecretStr | None = Field(
        None, description="Any long secret of your own, which marks the webhook URLs that are given to fal"
    )
    fal_url: str | None = Field(None, description="URL of fal's API, if it is not the usual one")
    replicate_token: SecretStr | None = Field(None, description="Token of Replicate; it makes videos if this is set")
    replicate_webhook_secret: SecretStr | None = Field(
        None, description="Replicate's signing secret for webhooks, whsec_..."
    )
    replicate_url: str | None = Field(None, description="URL of Replicate's API, if it is not the usual one")
    runway_token: SecretStr | None = Field(None, description="Key of Runway; it makes videos if this is set")
    runway_url: str | None = Field(None, description="URL of Runway's API, if it is not the usual one")
    openrouter_token: SecretStr | None = Field(None, description="Key of OpenRouter; it makes videos if this is set")
    openrouter_webhook_secret: SecretStr | None = Field(
        None, description="Signing secret for webhooks of the OpenRouter workspace"
    )
    openrouter_url: str | None = Field(None, description="URL of OpenRouter's API, if it is not the usual one")
    openai_url: str | None = Field(
        None, description="URL of a server of OpenAI's /v1/videos, with /v1; it makes videos if this is set"
    )
    openai_token: SecretStr | None = Field(None, description="Key of that server, if it requires one")
    comfyui_url: str | None = Field(None, description="URL of a ComfyUI server; it makes videos if this is set")
    comfyui_token: SecretStr | None = Field(None, description="Bearer token for a proxy before ComfyUI")
    http_url: str | None = Field(
        None, description="URL of your own server with the four calls of docs/providers.md; it makes videos if set"
    )
    http_token: SecretStr | None = Field(None, description="Bearer token for that server")
    http_webhook_secret: SecretStr | None = Field(None, description="Secret with which that server signs its calls")
    generator_url: str | None = Field(None, description=f"URL of a provider's API: {_EARLIER}")
    generator_token: SecretStr | None = Field(None, description=f"Key of a provider: {_EARLIER}")
    generator_webhook_url: str | None = Field(None, description=f"URL that a provider calls: {_EARLIER}")
    generator_webhook_secret: SecretStr | None = Field(None, description=f"Webhook secret: {_EARLIER}")

    @model_validator(mode="after")
    def _complete_vendors(self) -> Self:
        if self.generator == "local" and self.generator_url:
            raise ValueError("generator is local, and generator_url is set: one of them says who makes videos")
        if self.generator and self.generator not in ("local", *self.vendors):
            needed = f"{self.generator}_{_NEEDS[self.generator]}"
            raise ValueError(f"generator {self.generator} needs {needed}, without which it cannot be asked")
        for vendor, needed in _NEEDS.items():
            if needed == "url" and self._own(vendor, "token") and vendor not in self.vendors:
                raise ValueError(f"{vendor}_token needs {vendor}_url, where its API is")
        return self

    @property
    def vendors(self) -> dict[str, Access]:
        """The vendors that are set up, by name, and how each is reached."""
        return {vendor: self.access(vendor) for vendor, needed in _NEEDS.items() if self._given(vendor, needed)}

    @property
    def provider(self) -> str | None:
        """Who makes a model for which the catalogue names no provider; None: nobody, as several could."""
        if self.generator:
            return self.generator
        names = list(self.vendors)
        return names[0] if len(names) == 1 else None if names else "local"

    def access(self, vendor: str) -> Access:
        """Return how a vendor is reached, and reaches us, also where the API alone knows its webhook secret."""
        secret = self._given(vendor, "webhook_secret")
        own = f"{self.hooks_url.rstrip('/')}{HOOKS}/{vendor}" if self.hooks_url and secret else None
        webhook_url = own or self._earlier(vendor, "webhook_url")
        return Access(self._given(vendor, "url"), self._given(vendor, "token") or "", webhook_url, secret)

    def _given(self, vendor: str, what: str) -> str | None:
        return self._own(vendor, what) or self._earlier(vendor, what)

    def _own(self, vendor: str, what: str) -> str | None:
        return _plain(getattr(self, f"{vendor}_{what}", None))

    def _earlier(self, vendor: str, what: str) -> str | None:
        """Return a setting of earlier versions, whose only vendor was `generator`, by default `http`."""
        was_it = vendor == (self.generator or "http")
        return _plain(getattr(self, f"generator_{what}")) if was_it else None


def _plain(value: str | SecretStr | None) -> str | None:
    return value.get_secret_value() if isinstance(value, SecretStr) else value
