"""`python -m bench.made_up OBJECTS`: serve listings of made-up objects on loopback, and print the port.

To store a million real objects takes an hour, and their server more CPU than any client. These are made from their
number when their page is asked for: 24 months of videos of 5,000 users, a thumbnail for each fourth, some duplicates.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import parse_qs, urlsplit

from reelkeeper.adapters.s3.seaweed import Endpoint

PAGE_KEYS: Final = 1000
_FIRST: Final = datetime(2024, 12, 1, tzinfo=UTC)
_USERS, _DAYS, _MIXED = 5_000, 720, 2_654_435_761  # the last spreads numbers: Knuth's multiplier
_EMPTY: Final = "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>"


@contextmanager
def serving(objects: int) -> Iterator[Endpoint]:
    """Serve the listings in a process of its own."""
    command = [sys.executable, "-m", "bench.made_up", str(objects)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = next(iter(server.stdout or ())).strip()
            yield Endpoint(f"http://127.0.0.1:{port}", "key", "secret")
        finally:
            server.terminate()


def _entry(number: int, objects: int) -> str:
    """Write one object as a listing does."""
    mixed = number * _MIXED % 2**32
    user = number * _USERS // objects
    day = _FIRST + timedelta(days=_DAYS * (mixed % 1000 / 1000) ** 0.5)  # ever more
    end, size = ("jpg", 20_000 + mixed % 60_000) if number % 5 == 0 else ("mp4", 2_000_000 + mixed % 30_000_000)
    etag = f"{(mixed if mixed % 40 else mixed % 4000) * 2**64:032x}"
    size = size if mixed % 40 else 5_000_000 + mixed % 4000
    kind = "STANDARD_IA" if mixed % 25 == 1 else "STANDARD"
    name = f"v{number + (end == 'jpg'):08}.{end}"
    return (
        f"<Contents><Key>u/{user:05}/{name}</Key><LastModified>{day:%Y-%m-%dT%H:%M:%S}.000Z</LastModified>"
        f"<ETag>&quot;{etag}&quot;</ETag><Size>{size}</Size><StorageClass>{kind}</StorageClass></Contents>"
    )


class Handler(BaseHTTPRequestHandler):
    """Answers listings, and 404 to everything else that is read."""

    protocol_version = "HTTP/1.1"
    objects = 0

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """Answer."""
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "uploads" in query:
            self._reply(200, _EMPTY)
        elif "list-type" in query:
            first = int(query.get("continuation-token", ["0"])[0])
            after = min(first + PAGE_KEYS, self.objects)
            more = f"<NextContinuationToken>{after}</NextContinuationToken>" if after < self.objects else ""
            head = f"<KeyCount>{after - first}</KeyCount><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}"
            entries = "".join(_entry(number, self.objects) for number in range(first, after))
            self._reply(200, f"<ListBucketResult>{head}{entries}</ListBucketResult>")
        else:
            self._reply(404, "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")

    do_HEAD = do_GET  # noqa: N815  a name that the standard library asks for

    def _reply(self, status: int, text: str) -> None:
        body = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


if __name__ == "__main__":
    Handler.objects = int(sys.argv[1])
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{served.server_address[1]}\n")
    sys.stdout.flush()
    served.serve_forever()
