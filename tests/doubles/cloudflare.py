"""A double of Cloudflare's API, on a local port: GraphQL analytics, R2's metrics, and both versions of billable usage.

Built from the documented schema and errors (see `reelkeeper/adapters/cloudflare`). Tests put in what was used, take
away permissions, and line up answers that the next requests are to get instead of the true one.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from tests.doubles.analytics import Operation, Refusal, Stored, answer
from tests.doubles.graphql import Field, parse
from tests.doubles.serving import answering

ACCOUNT, TOKEN = "0123456789abcdef0123456789abcdef", "cfat-the-right-token"
ZONE = "fedcba9876543210fedcba9876543210"
ALL = frozenset({"Account Analytics: Read", "Billing: Read", "Cache Purge: Purge", "Workers R2 Storage: Read"})
Reply = tuple[int, dict[str, str], Any]  # status, headers, body: a str is sent as it is, anything else as JSON


class CloudflareDouble:
    """Its controls. `url` is for clients, `asked` what they sent (method, path, body), `queue` what they get next."""

    def __init__(self) -> None:
        self.reset()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/client/v4"

    def reset(self) -> None:
        """Begin anew, with an account in which nothing was used."""
        self.operations: list[Operation] = []
        self.stored: list[Stored] = []
        self.billable: list[dict[str, Any]] = []
        self.versions = {"/billable-usage", "/billable/usage"}
        self.metrics: dict[str, Any] = {}
        self.bucket_rules: dict[str, list[dict[str, Any]]] = {}  # by path: /r2/buckets/NAME/lock
        self.forgotten: list[list[str]] = []  # URLs of each request to purge the cache
        self.permissions = ALL
        self.token, self.sampled, self.has_confidence = TOKEN, False, True
        self.asked: list[tuple[str, str, Any]] = []
        self.queue: list[Reply | None] = []  # None: the true answer

    @contextmanager
    def serving(self) -> Iterator["CloudflareDouble"]:
        """Answer requests until left."""
        with answering(self._server):
            yield self

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Reply:  # noqa: ANN401  JSON
        """Answer one request."""
        self.asked.append((method, path, body))
        if self.queue and (queued := self.queue.pop(0)):
            return queued
        if headers.get("Authorization") != f"Bearer {self.token}":
            if path.endswith("/graphql"):
                return 401, {}, {"data": None, "errors": [{"message": "Unauthorized"}]}
            return 401, {}, failed(1000, "Invalid API Token")
        at = urlsplit(path)
        if at.path == "/client/v4/graphql" and method == "POST":
            return self._graphql(body)
        if at.path == f"/client/v4/zones/{ZONE}/purge_cache" and method == "POST":
            return self._forget(body)
        return self._rest(at.path.removeprefix(f"/client/v4/accounts/{ACCOUNT}"), parse_qs(at.query))

    def _forget(self, body: Any) -> Reply:  # noqa: ANN401  JSON
        if "Cache Purge: Purge" not in self.permissions:
            return 403, {}, failed(10000, "Authentication error")
        if set(body) != {"files"} or not 0 < len(body["files"]) <= 30:
            return 400, {}, failed(1094, "Request must contain between 1 and 30 files")
        self.forgotten.append(body["files"])
        return 200, {}, well({"id": ZONE})

    def _graphql(self, body: Any) -> Reply:  # noqa: ANN401  JSON
        try:
            if "Account Analytics: Read" not in self.permissions:
                return 403, {}, {"data": None, "errors": [{"message": "not authorized for that account"}]}
            (viewer,) = parse(body["query"], body["variables"])
            account = viewer["accounts"]
            if account.arguments["filter"] != {"accountTag": ACCOUNT}:
                return 200, {}, {"data": {"viewer": {"accounts": []}}, "errors": None}
            found = {field.alias: self._dataset(field) for field in account.fields}
        except (Refusal, ValueError) as error:
            return 400, {}, {"data": None, "errors": [{"message": str(error), "path": None}]}
        return 200, {}, {"data": {"viewer": {"accounts": [found]}}, "errors": None}

    def _dataset(self, asked: Field) -> list[dict[str, Any]]:
        if "confidence" in asked.names() and not self.has_confidence:
            raise Refusal('unknown field "confidence"')
        datasets: dict[str, list[Operation] | list[Stored]] = {
            "r2OperationsAdaptiveGroups": self.operations,
            "r2StorageAdaptiveGroups": self.stored,
        }
        rows = datasets.get(asked.name)
        if rows is None:
            raise Refusal(f'unknown field "{asked.name}"')
        return answer(asked, rows, now=datetime.now(UTC), sampled=self.sampled)

    def _rest(self, path: str, query: Mapping[str, list[str]]) -> Reply:
        needed = "Billing: Read" if path.startswith("/billable") else "Workers R2 Storage: Read"
        if needed not in self.permissions:
            return 403, {}, failed(10000, "Authentication error")
        if path == "/r2/metrics":
            return 200, {}, well(self.metrics)
        if path in self.bucket_rules:
            return 200, {}, well({"rules": self.bucket_rules[path]})
        if path not in self.versions:
            return 404, {}, failed(7003, "Could not route to the resource")
        first, last = query["from"][0], query["to"][0]
        return 200, {}, well([entry for entry in self.billable if first <= entry["ChargePeriodStart"][:10] <= last])


def billable_row(day: str, service: str, quantity: float, unit: str, cost: float) -> dict[str, Any]:
    """Return a row of version 1, with the columns that its schema demands."""
    return {
        "BilledCost": cost,
        "BillingAccountId": ACCOUNT,
        "BillingAccountName": None,
        "BillingCurrency": "USD",
        "BillingPeriodStart": f"{day[:7]}-01T00:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{service} usage measured in {unit}",
        "ChargePeriodStart": f"{day}T00:00:00Z",
        "ChargePeriodEnd": f"{day}T23:59:59Z",
        "ConsumedQuantity": quantity,
        "ConsumedUnit": unit,
        "ContractedCost": cost,
        "CumulatedContractedCost": cost,
        "CumulatedPricingQuantity": int(quantity),
        "EffectiveCost": cost,
        "ListCost": cost,
        "PricingQuantity": int(quantity),
        "PricingUnit": unit or "Count",
        "ServiceFamilyName": service.partition(" ")[0],
        "ServiceName": service,
    }


def well(result: Any) -> dict[str, Any]:  # noqa: ANN401  any result
    return {"success": True, "errors": [], "messages": [], "result": result}


def failed(code: int, message: str) -> dict[str, Any]:
    return {"success": False, "errors": [{"code": code, "message": message}], "messages": [], "result": None}


class Double(Protocol):
    def reply(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Reply: ...  # noqa: ANN401  JSON


def handler(double: Double) -> type[BaseHTTPRequestHandler]:
    """Serve what a double replies, for GET and POST."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet: two wait 40 ms for each other

        def do_GET(self) -> None:
            self._serve(None)

        def do_POST(self) -> None:
            self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _serve(self, body: Any) -> None:  # noqa: ANN401  JSON
            status, headers, content = double.reply(self.command, self.path, dict(self.headers), body)
            if status == 0:  # hang up without an answer
                self.close_connection = True
                return
            data = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json", "Content-Length": len(data)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Log nothing: tests check the requests."""

    return Handler
