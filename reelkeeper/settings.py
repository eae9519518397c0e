"""Addresses and secrets, read from `REELKEEPER_*`, `.env` and files, lazily: importing this reads nothing.

With nothing configured, everything lives under one folder: SQLite, and an S3 server that Reelkeeper starts itself.
"""

import json
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, DirectoryPath, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from reelkeeper.errors import Misconfigured
from reelkeeper.model.key_patterns import DEFAULT_PATTERNS, compiled
from reelkeeper.redaction import hide
from reelkeeper.vendor_settings import VendorSettings

_PREFIX: Final = "REELKEEPER_"
# Variables that carry the prefix and are no settings: where a run works (deployments/folder.py), failpoints
# (failpoints.py), the address and token of a caller of our API (docs/api.md), and the bucket of the contract tests.
_ELSEWHERE: Final = re.compile(r"REELKEEPER_(HOME|FORKSERVER|FAILPOINTS|URL|TOKEN|TEST_R2_\w+)")
_FORMER: Final = {"REELKEEPER_FFPROBE": "ffprobe is the one beside REELKEEPER_FFMPEG"}  # of earlier versions
_ORIGIN: Final = r"^https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?$"  # as browsers send it
# Kubernetes sets such variables in each pod for a Service named reelkeeper, or reelkeeper-api ("Service: Discovering
# services: Environment variables"): nobody has written them.
_SERVICE_LINK: Final = re.compile(r"REELKEEPER\w*_(SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_(TCP|UDP|SCTP)\w*)")
_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://")  # the value of the one named like a setting: ..._PORT


class Settings(VendorSettings):
    """Every address and secret. Policies are not here: `reelkeeper policy` keeps them in the store."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,  # a wrong value is often a secret in the wrong place
    )

    state_dir: Path = Field(Path(".reelkeeper"), description="Folder for all data without a location of its own")
    secrets_dir: DirectoryPath | None = Field(
        None, description="Folder with one file per secret, named like the setting: /run/secrets in a container"
    )
    database_url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of the store, e.g. postgresql+psycopg://host/db; SQLite under state_dir if unset",
    )
    r2_account_id: str | None = Field(None, description="Cloudflare account id, which determines the R2 endpoint")
    s3_endpoint_url: str | None = Field(None, description="URL of any S3 endpoint, instead of r2_account_id")
    s3_access_key_id: SecretStr | None = Field(None, description="Access key of an R2 API token")
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret access key of the same token")
    s3_region: str = Field("auto", description="Region; R2 accepts only auto")
    bucket: str = Field("reelkeeper", pattern=r"^([a-zA-Z0-9._-]+|arn:.+)$", description="Bucket that holds the videos")
    prefix: str = Field(
        "videos/", description="Nothing outside this prefix is ever written or deleted; / alone: the whole bucket"
    )
    key_pattern: Annotated[tuple[str, ...], NoDecode] = Field(
        DEFAULT_PATTERNS,
        description="Patterns of the service's keys, without the prefix, made of {user}, {video}, {ext}, {year}, "
        "{month}, {day} and {any}: separated by commas or lines, or a JSON list; the first that matches a key gives "
        "its user and video",
    )
    backups: str | None = Field(
        None,
        description="Where the store is backed up each night: a folder, or s3://BUCKET/PREFIX/ with the same endpoint "
        "and keys, never the bucket of the videos; state_dir/backups if unset",
    )
    ffmpeg: Path | None = Field(
        None, description="Path of ffmpeg; the one in the wheel if unset. An ffprobe beside it is used"
    )
    require_network_isolation: bool = Field(
        False, description="Refuse to open media if the kernel offers neither network namespaces nor seccomp filters"
    )
    require_file_isolation: bool = Field(
        False, description="Refuse to open media if the kernel has no Landlock, without which decoders see other files"
    )
    scratch_dir: Path | None = Field(None, description="Folder for videos being processed; state_dir/scratch if unset")
    workers: int = Field(
        2, ge=1, le=64, description="Number of videos transcoded at the same time, with one thread each"
    )
    dask_address: str | None = Field(
        None, description="Dask scheduler whose workers transcode, e.g. tcp://10.0.0.5:8786; else the run itself"
    )

    cloudflare_api_token: SecretStr | None = Field(
        None, description="Cloudflare API token for usage and object reads; the store's own counts if unset"
    )
    cloudflare_account_id: str | None = Field(
        None, description="Cloudflare account whose usage is read, if s3_endpoint_url is set; else r2_account_id"
    )
    cloudflare_api_url: str = Field("https://api.cloudflare.com/client/v4", description="Base URL of Cloudflare's API")
    event_queue_id: str | None = Field(
        None, description="Id of the Cloudflare queue of R2's event notifications of the bucket; unset: none are read"
    )
    event_queue_token: SecretStr | None = Field(
        None, description="Cloudflare API token with Queues: Edit, to pull and acknowledge these notifications"
    )
    public_url: str | None = Field(
        None,
        description="Public URL of the bucket behind Cloudflare's cache, e.g. https://videos.example.com: purged "
        "objects are also purged from this cache",
    )
    cache_zone_id: str | None = Field(None, description="Id of the Cloudflare zone of public_url")
    cache_purge_token: SecretStr | None = Field(
        None, description="Cloudflare API token with Cache Purge: Purge for that zone"
    )
    slack_bot_token: SecretStr | None = Field(None, description="Slack bot token, for messages with pictures")
    slack_channel: str | None = Field(None, description="Channel id that the bot posts to, e.g. C0123456789")
    slack_webhook_url: SecretStr | None = Field(
        None, description="Slack incoming webhook, instead of a bot: without pictures"
    )
    slack_api_url: str = Field("https://slack.com/api/", description="Base URL of Slack's API")
    slack_signing_secret: SecretStr | None = Field(
        None, description="Signing secret of the Slack app: messages get buttons, whose clicks are sent to /hooks/slack"
    )
    slack_operators: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Slack member ids of the people who may use the buttons, separated by commas, e.g. U012AB3CD"
    )
    second_sink_url: SecretStr | None = Field(
        None,
        description="Webhook for messages that Slack rejects for good or has not accepted for 15 minutes; the console "
        "if unset",
    )
    watchdog_ping_url: SecretStr | None = Field(
        None, description="URL that `reelkeeper watchdog` calls when all is well, such as a dead man's switch"
    )

    log_format: Literal["text", "json"] = Field(
        "text",
        description="json: one JSON object per line on stderr, with the ids of the run, job, video or request",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Minimum log level of workers, the API and, with json, commands"
    )
    ui_url: str | None = Field(
        None,
        validation_alias=AliasChoices("REELKEEPER_UI_URL", "PREFECT_UI_URL"),
        description="URL of Prefect's UI, for links in messages, as it opens elsewhere; PREFECT_UI_URL if unset",
    )
    api_url: str | None = Field(
        None,
        description="URL at which Prefect's server reaches `reelkeeper api`, to report failed, crashed and late runs",
    )

    cors_origins: Annotated[tuple[Annotated[str, Field(pattern=_ORIGIN)], ...], NoDecode] = Field(
        (),
        description="Origins of web pages whose scripts may call `reelkeeper api`, separated by commas, e.g. "
        "https://app.example.com; no wildcards. None: a browser lets no page of another origin call it",
    )
    prefect_api_url: str | None = Field(
        None,
        description="URL of Prefect's API, e.g. http://HOST:4200/api, with which `reelkeeper api` has a queued job "
        "started at once",
    )
    prefect_api_auth: SecretStr | None = Field(None, description="USER:PASSWORD for Prefect's API, if it requires one")
    allow_private_addresses: bool = Field(
        False, description="Allow the provider, and the URLs that it returns, to use non-public addresses and http"
    )
    images_dir: Path | None = Field(
        None, description="Folder of input images, each named by its SHA-256; state_dir/images if unset"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  pydantic-settings' own knows no folder yet
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read a secret from its file where neither the environment nor `.env` has it."""
        folder = (dotenv_settings() | env_settings()).get("secrets_dir")
        files = (SecretsSettingsSource(settings_cls, folder),) if folder and Path(folder).is_dir() else ()
        return init_settings, env_settings, dotenv_settings, *files

    @field_validator("*", mode="after")
    @classmethod
    def _fit_for_a_header(cls, value: object) -> object:
        """Strip the line end of a secret read from a file, and refuse characters that no header can carry."""
        if not isinstance(value, SecretStr):
            return value
        secret = value.get_secret_value().strip()
        if not (secret.isascii() and secret.isprintable()):
            raise ValueError("must be printable ASCII")
        return SecretStr(secret) if secret else None

    @field_validator("key_pattern", "generator_hosts", "slack_operators", "cors_origins", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        """Accept a JSON list, or items separated by commas or line ends."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [item.strip() for item in re.split(r"[,\n]", value) if item.strip()]

    @field_validator("key_pattern", mode="after")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse a malformed pattern at once."""
        compiled(value)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _plain_address(cls, value: object, info: ValidationInfo) -> object:
        """Refuse a password in an address that is shown to people."""
        if isinstance(value, str) and str(info.field_name).endswith("_url") and "@" in urlsplit(value).netloc:
            raise ValueError("must hold no user and password: addresses are shown")
        return value

    @field_validator("s3_endpoint_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        """Refuse an endpoint that no client can ask, before one is made. R2's dashboard shows it with the bucket."""
        found = re.fullmatch(r"(https?://[^/?#\s]+)/?(.*)", value or "", re.DOTALL)
        if value is not None and found is None:
            raise ValueError("must be http:// or https:// and a host, as in https://s3.example.com")
        if found and found[2]:
            more = f"/{found[2]}" if re.fullmatch("[a-z0-9.-]+/?", found[2]) else "what follows it"  # may be a secret
            raise ValueError(f"must be {found[1]} alone: leave out {more}; the bucket is REELKEEPER_BUCKET")
        return value

    @field_validator("r2_account_id")
    @classmethod
    def _of_an_account(cls, value: str | None) -> str | None:
        """Refuse what is no account id, as the dots of an example, before an address is made of it."""
        if value and not re.fullmatch("[0-9a-fA-F]{32}", value):
            raise ValueError("must be the 32 hex digits before .r2.cloudflarestorage.com in R2's dashboard")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.r2_account_id and self.s3_endpoint_url:
            raise ValueError("set r2_account_id or s3_endpoint_url, not both")
        keys = (self.s3_access_key_id, self.s3_secret_access_key)
        if self.endpoint_url and not all(keys):
            raise ValueError("an R2 or S3 endpoint needs s3_access_key_id and s3_secret_access_key")
        if any(keys) and not self.endpoint_url:
            raise ValueError("s3_access_key_id is set, but neither r2_account_id nor s3_endpoint_url")
        if self.slack_bot_token and self.slack_webhook_url:
            raise ValueError("set slack_bot_token or slack_webhook_url, not both")
        if bool(self.slack_signing_secret) != bool(self.slack_operators):
            raise ValueError("slack_signing_secret and slack_operators are set together: somebody must be allowed")
        if bool(self.slack_bot_token) != bool(self.slack_channel):
            raise ValueError("slack_bot_token and slack_channel are set together: a bot must know where to post")
        if self.prefect_api_auth and ":" not in self.prefect_api_auth.get_secret_value():
            raise ValueError("prefect_api_auth is USER:PASSWORD, with a colon between them")
        if self.cloudflare_api_token and not self.account_id:
            raise ValueError("cloudflare_api_token needs r2_account_id or cloudflare_account_id, whose usage it reads")
        return self

    @field_validator("prefix")
    @classmethod
    def _prefix_of_keys(cls, prefix: str) -> str:
        """Take / alone for the whole bucket, whose keys have no prefix. An empty value is more likely a mistake."""
        if prefix == "/":
            return ""
        if not prefix.endswith("/") or prefix.startswith("/"):
            raise ValueError(f"prefix {prefix!r} must end with / and not begin with it; / alone is the whole bucket")
        return prefix

    @model_validator(mode="after")
    def _complete_queue(self) -> Self:
        if self.event_queue_id and not self.event_queue_token:
            raise ValueError("event_queue_id needs event_queue_token, which may pull that queue")
        if self.event_queue_id and not self.account_id:
            raise ValueError("event_queue_id needs r2_account_id or cloudflare_account_id, whose queue it is")
        return self

    @model_validator(mode="after")
    def _own_place_of_backups(self) -> Self:
        if self.backup_bucket and not self.endpoint_url:
            raise ValueError("backups in a bucket need r2_account_id or s3_endpoint_url; else name a folder")
        # guard backups.apart: backups, which name all users, lie in the bucket that players may read
        if self.backup_bucket and self.backup_bucket[0] == self.bucket:
            raise ValueError("backups must not be in the bucket of the videos: name another one, or a folder")
        return self

    @model_validator(mode="after")
    def _complete_cache(self) -> Self:
        given = (self.public_url, self.cache_zone_id, self.cache_purge_token)
        if any(given) and not all(given):
            raise ValueError("public_url, cache_zone_id and cache_purge_token are set together")
        return self

    @property
    def endpoint_url(self) -> str | None:
        """The S3 endpoint, or None where the embedded server is used."""
        if self.r2_account_id:
            return f"https://{self.r2_account_id}.r2.cloudflarestorage.com"
        return self.s3_endpoint_url

    @property
    def account_id(self) -> str | None:
        """The Cloudflare account whose usage is read."""
        return self.cloudflare_account_id or self.r2_account_id

    @property
    def analytics_bucket(self) -> str:
        """The bucket's name in Cloudflare's analytics, which puts a jurisdiction before it: eu_videos."""
        return f"{self.jurisdiction}_{self.bucket}" if self.jurisdiction else self.bucket

    @property
    def jurisdiction(self) -> str | None:
        """The jurisdiction of the bucket at Cloudflare, such as eu; None for the default one."""
        found = re.search(r"\.(\w+)\.r2\.cloudflarestorage\.com", self.s3_endpoint_url or "")
        return found[1] if found else None

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL of the store."""
        if self.database_url:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.store_file.absolute()}"

    @property
    def store_file(self) -> Path:
        """The file of the store, where no `database_url` is set."""
        return self.state_dir / "store.sqlite3"

    @property
    def backup_bucket(self) -> tuple[str, str] | None:
        """The bucket of the backups and the prefix in it; None where they are in `backup_folder`."""
        if not (self.backups or "").startswith("s3://"):
            return None
        at = urlsplit(self.backups or "")
        folder = at.path.strip("/")
        return at.netloc, f"{folder}/" if folder else ""

    @property
    def backup_folder(self) -> Path:
        """The folder of the backups."""
        return Path(self.backups or self.state_dir / "backups").absolute()

    @property
    def images(self) -> Path:
        """The folder of input images."""
        return (self.images_dir or self.state_dir / "images").absolute()

    @property
    def scratch(self) -> Path:
        """The folder for videos while they are worked on."""
        return (self.scratch_dir or self.state_dir / "scratch").absolute()


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Read the settings of this process, once, and redact their secrets from its logs.

    Raises Misconfigured for a variable, a line of `.env` or a secret's file whose name is not that of a setting.
    """
    try:
        read = Settings()
    except (UnicodeDecodeError, OSError) as error:
        raise Misconfigured(f".env in this folder, or the file of a secret, is no readable UTF-8: {error}") from None
    if unknown := list(_unknown(read)):
        raise Misconfigured(f"settings that do not exist: {'; '.join(unknown)}. docs/settings.md lists them all")
    secrets = (getattr(read, name) for name in Settings.model_fields)
    hide(secret.get_secret_value() for secret in secrets if isinstance(secret, SecretStr))
    return read


def _unknown(read: Settings) -> Iterator[str]:
    """List names with our prefix that are no settings, each with where it was found and the setting probably meant."""
    known = [f"{_PREFIX}{name.upper()}" for name in Settings.model_fields]
    written = DotEnvSettingsSource(Settings).env_vars
    files = [path.name for path in read.secrets_dir.iterdir()] if read.secrets_dir else []
    places: tuple[tuple[str, dict[str, str | None]], ...] = (
        ("in the environment", dict(os.environ)),
        ("in .env", dict(written)),
        (f"a file in {read.secrets_dir}", dict.fromkeys(files)),
    )
    for where, found in places:
        for name in sorted(found):
            plain, value = name.upper(), found[name] or ""
            if not plain.startswith(_PREFIX) or plain in known or _ELSEWHERE.fullmatch(plain):
                continue
            if _SERVICE_LINK.fullmatch(plain) or (plain.endswith("_PORT") and _SERVICE_ADDRESS.match(value)):
                continue
            if plain in _FORMER:
                yield f"{name} ({where}): {_FORMER[plain]}"
                continue
            meant = get_close_matches(plain, known, n=1, cutoff=0.75)  # below that, names share little but the prefix
            yield f"{name} ({where})" + (f", did you mean {meant[0]}?" if meant else "")
