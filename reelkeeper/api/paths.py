"""Ids in paths, any text, percent-encoded, a slash as %2F; and the methods of each path.

A server decodes a path before it is routed, and `/v1/users/a%2Fexport` would export user `a`, not show user `a/export`.
So routes match the path as it was sent, and `{...:id}` decodes what it has found.

HEAD works wherever GET does, and OPTIONS everywhere: `problems` answers it, with the header Allow alone.
"""

from collections.abc import Iterable
from copy import copy
from typing import Annotated, Final
from urllib.parse import unquote

from fastapi import APIRouter, Path, Request
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from reelkeeper.model.ids import Id

UserId = Annotated[Id, Path(examples=["ann"])]
VideoId = Annotated[Id, Path(examples=["v1"])]
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE")


class _Id(Convertor[str]):
    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """Decode it; what is not UTF-8 becomes half a surrogate pair, which is in no id."""
        return unquote(value, errors="surrogateescape")

    def to_string(self, value: str) -> str:
        """Refuse it, as no URL is made by the name of a route."""
        raise NotImplementedError


register_url_convertor("id", _Id())


class PathAsSent:
    """Middleware, the first of all, that lets everything behind it see the path as it was sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. The scope itself is changed, so that a line of the log hides the whole id, too."""
        if scope["type"] == "http":
            # guard ids.path: a request about one user is carried out for another, whose id is the part before a slash
            scope["path"] = scope["raw_path"].decode("latin-1")
        await self._app(scope, receive, send)


def heads(routers: Iterable[APIRouter]) -> APIRouter:
    """Return a router that answers HEAD with the routes of GET: the server leaves out the body, as HTTP asks."""
    router = APIRouter()
    for route in (route for each in routers for route in each.routes):
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            twin = copy(route)
            twin.methods, twin.include_in_schema = {"HEAD"}, False
            router.routes.append(twin)
    return router


def methods(request: Request) -> list[str]:
    """List all methods of the request's path; the framework's own list has those of one of its routes."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": request.scope.get("root_path", "")}
    routes = request.app.routes
    found = [m for m in METHODS if any(route.matches(scope | {"method": m})[0] == Match.FULL for route in routes)]
    return [*found, "OPTIONS"]
