"""Who may use the HTTP API, and for what."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class Scope(StrEnum):
    """Scope of an API token: what it may do."""

    JOBS = "jobs"  # ask for videos, follow and cancel jobs
    VIDEOS = "videos"  # be sent to a video's bytes, which counts a view
    VIEWS = "views"  # report views
    UPLOADS = "uploads"  # bring videos that were made elsewhere
    DELETIONS = "deletions"  # delete videos that their users do not want
    KEEPS = "keeps"  # prolong the life of videos whose users ask for it, as the policy allows
    TAKEDOWNS = "takedowns"  # take videos down: their bytes go at once
    HOLDS = "holds"  # keep a video, or all of a user's, whatever the rules say
    USERS = "users"  # read what users store and may spend
    ACCOUNTS = "accounts"  # make users, set their tiers, give them credits
    ERASE = "erase"  # erase users: nothing is left of them but amounts
    EXPORT = "export"  # read all data of a user, videos included
    WEBHOOKS = "webhooks"  # choose which servers are told what happens
    METRICS = "metrics"  # read the figures for Prometheus
    RUNS = "runs"  # report flow runs that went wrong: Prefect's automations


class Caller(NamedTuple):
    """The owner of a token."""

    token_id: str
    name: str
    scopes: frozenset[str]


class TokenLine(NamedTuple):
    """A token in a list. The token itself is no longer known."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
