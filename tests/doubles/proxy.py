"""The wire of the double: HTTP/1.1 in, HTTP/1.1 out, bodies streamed, a thread for each connection."""

import time
from collections.abc import Mapping
from email.utils import formatdate
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from botocore.exceptions import ClientError

from tests.doubles import rules
from tests.doubles.requests import Request
from tests.doubles.rules import Answer

if TYPE_CHECKING:
    from tests.doubles.r2 import R2Double

CHUNK_BYTES = 1 << 18
IDLE_SECONDS = 2
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "expect", "content-length"})


class Server(ThreadingHTTPServer):
    """Listens on a free port of loopback."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, double: "R2Double") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.double = double


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    timeout = 120
    server: Server
    upstream: HTTPConnection | None = None
    used = 0.0

    def log_message(self, *_: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        """Give the go-ahead at once: R2 never does, but a client of ours that asks for it waits only a second."""
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def finish(self) -> None:
        super().finish()
        if self.upstream:
            self.upstream.close()

    def do_GET(self) -> None:
        """Answer any request, and keep what goes wrong in the double, unless the client has gone away."""
        try:
            self._handle()
        except (ConnectionError, HTTPException, TimeoutError):
            self._hang_up()
        except Exception as error:  # noqa: BLE001  the test that made it fails on it
            self.server.double.errors.append(error)
            self._hang_up()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  names that the standard library asks for

    def _handle(self) -> None:
        double, faults = self.server.double, self.server.double.faults
        request = Request.read(self.command, self.path, dict(self.headers))
        left = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(left) if request.operation == "DeleteObjects" else None
        answer = rules.refusal(request)
        if body is not None:
            request.keys, fault = rules.deletes(body)
            answer = answer or fault or rules.refusal(request)
        double.requests.append(request)
        faults.act("before", request)
        if failure := faults.take("fail", request.operation):
            answer = failure.answer
        if faults.take("drop_request", request.operation):
            self._hang_up()
            return
        if not answer and double.overwrites_too_soon(request):
            answer = Answer(429, "TooManyRequests", f"{request.key} was written less than a second ago")
        if answer:
            if body is None:
                self._drain(left)
            self._error(request, answer)
            return
        if request.writes:
            double.listings.written()
        try:
            self._answer(request, body, left)
        finally:
            if request.writes:
                double.listings.written()

    def _answer(self, request: Request, body: bytes | None, left: int) -> None:
        double = self.server.double
        ours = f"Credential={double.upstream.access_key_id}/" in self.headers.get("Authorization", "")
        if ours and request.operation == "ListObjectsV2" and "delimiter" not in request.query:
            try:
                self._reply(request, 200, [("Content-Type", "application/xml")], double.listings.page(request))
            except ClientError as error:
                details = error.response["Error"]
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                self._error(request, Answer(status, details["Code"], details["Message"]))
            return
        refused = double.faults.take_refused(request.keys) if ours and request.keys else {}
        if refused:
            self._reply(request, 200, [("Content-Type", "application/xml")], self._delete_others(request, refused))
            return
        response = self._forward(body, left)
        request.status = response.status
        if response.status < 300:
            double.wrote(request)
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        length = response.getheader("Content-Length")
        self._reply(request, response.status, headers, response if length else response.read(), int(length or 0))

    def _delete_others(self, request: Request, refused: Mapping[str, Answer]) -> bytes:
        others = [key for key in request.keys if key not in refused]
        if others:
            objects: Any = [{"Key": key} for key in others]
            self.server.double.client.delete_objects(Bucket=request.bucket, Delete={"Objects": objects})
        entries = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in others)
        for key, answer in refused.items():
            entries += (
                f"<Error><Key>{escape(key)}</Key><Code>{answer.code}</Code><Message>{answer.message}</Message></Error>"
            )
        return f'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{entries}</DeleteResult>'.encode()

    def _forward(self, body: bytes | None, left: int) -> HTTPResponse:
        """Send the request on as it came, its Host too, since that is signed."""
        if self.upstream and time.monotonic() - self.used > IDLE_SECONDS:
            self.upstream.close()  # the server may have closed it meanwhile, and a streamed body cannot be sent twice
            self.upstream = None
        self.upstream = self.upstream or HTTPConnection(urlsplit(self.server.double.upstream.endpoint_url).netloc)
        self.used = time.monotonic()
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP - {"content-length"}:
                self.upstream.putheader(name, value)
        self.upstream.endheaders(body)
        while body is None and left:
            chunk = self.rfile.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise ConnectionResetError("the client left in the middle of its body")
            self.upstream.send(chunk)
            left -= len(chunk)
        return self.upstream.getresponse()

    def _reply(
        self,
        request: Request,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes | HTTPResponse,
        length: int | None = None,
    ) -> None:
        faults = self.server.double.faults
        request.status = status
        faults.act("after", request)
        if faults.take("drop_reply", request.operation):
            self._hang_up()
            return
        length = length if isinstance(body, HTTPResponse) else len(body)
        stop = length // 2 if length and faults.take("cut_reply", request.operation) else None
        self.send_response_only(status)
        if not any(name.lower() == "date" for name, _ in headers) or faults.skew_seconds:
            headers = [(name, value) for name, value in headers if name.lower() != "date"]
            headers.append(("Date", formatdate(time.time() + faults.skew_seconds, usegmt=True)))
        for name, value in [*headers, ("Content-Length", str(length))]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send(body, stop)
        elif isinstance(body, HTTPResponse):
            body.read()
        self.wfile.flush()
        if stop is not None:
            self._hang_up()

    def _send(self, body: bytes | HTTPResponse, stop: int | None) -> None:
        if isinstance(body, bytes):
            self.wfile.write(body[:stop])
            return
        sent = 0
        while chunk := body.read(CHUNK_BYTES):
            chunk = chunk if stop is None else chunk[: stop - sent]
            self.wfile.write(chunk)
            sent += len(chunk)
            if stop is not None and sent >= stop:
                return

    def _error(self, request: Request, answer: Answer) -> None:
        message = f"<Code>{answer.code}</Code><Message>{escape(answer.message)}</Message>"
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error>{message}</Error>'.encode()
        self._reply(request, answer.status, [("Content-Type", "application/xml")], body)

    def _drain(self, left: int) -> None:
        while left and (chunk := self.rfile.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)

    def _hang_up(self) -> None:
        self.close_connection = True
        if self.upstream:
            self.upstream.close()
            self.upstream = None
