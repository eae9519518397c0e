"""Ten secrets that must never leak, the environment that contains them, and a search of everything left behind."""

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

from reelkeeper.adapters.s3.seaweed import Endpoint

CANARIES = {
    "Cloudflare token": "cfat_canary1d6f0b7c2e9a48530",
    "Slack bot token": "xoxb-canary2-8842-5519-Qm2vT7hXz",
    "Slack webhook": "/services/T0CANARY3/B0CANARY3/k3Jq9wLrX2",  # what follows the host is the secret
    "second sink": "/in?token=canary4-51e8b3c7",
    "ping address": "/ping/canary5-0b1c9d2e-77aa",
    "store password": "canary6 p@ss/word",
    "password in an address": "canary7-in-the-endpoint",
    "secret in another setting": "canary8-where-a-number-belongs",
}
QUOTED_PASSWORD = quote_plus(CANARIES["store password"])
SIGNATURE = re.compile(rb"Signature=[0-9a-f]{64}|Signature:\n[0-9a-f]{64}")


@dataclass
class Evidence:
    """All that a deployment left behind, by where it was found."""

    at: Endpoint  # whose true keys are two more secrets: they sign every request
    left: dict[str, bytes] = field(default_factory=dict)

    def keep(self, where: str, what: str | bytes) -> None:
        self.left[where] = self.left.get(where, b"") + (what.encode() if isinstance(what, str) else what)

    def keep_folder(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.keep(str(path), path.read_bytes())
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        self.keep(f"{path}!{name}", archive.read(name))

    @property
    def secrets(self) -> Mapping[str, str]:
        return {**CANARIES, "access key": self.at.access_key_id, "secret key": self.at.secret_access_key}

    def showing(self, name: str) -> list[str]:
        """Name the places that show a secret, whole or as an address writes it."""
        secret = self.secrets[name]
        forms = {secret, quote(secret), quote_plus(secret), quote(secret, safe=" +")}  # the last as SQLAlchemy does
        return [where for where, what in self.left.items() if any(form.encode() in what for form in forms)]

    def signatures(self) -> list[str]:
        return [where for where, what in self.left.items() if SIGNATURE.search(what)]


def environment(origin: str = "https://hooks.example", **more: str) -> Iterator[tuple[str, str]]:
    """Return the variables that hold the canaries of a deployment with a bot, whose webhooks are all at `origin`."""
    given = {
        "CLOUDFLARE_API_TOKEN": CANARIES["Cloudflare token"],
        "SLACK_BOT_TOKEN": CANARIES["Slack bot token"],
        "SLACK_CHANNEL": "C0123456789",
        "SECOND_SINK_URL": origin + CANARIES["second sink"],
        "WATCHDOG_PING_URL": origin + CANARIES["ping address"],
        **more,
    }
    return ((f"REELKEEPER_{name}", value) for name, value in given.items())
