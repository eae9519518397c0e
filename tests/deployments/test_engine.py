"""The process of a flow run ends on SIGTERM, whatever its main thread does, and outlasts a restart of the server."""

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import uuid4

import pytest

from tests.ports import free_port

AWAY_SECONDS = 10.0  # after which a process that did not wait would be over

TOLD_WITHIN_A_CALLBACK = """
import os, signal, time, weakref
from prefect.exceptions import TerminationSignal
from prefect.utilities.engine import capture_sigterm
from deployments.engine import send_lost_signals_again

class Session:
    pass

if {guarded}:
    send_lost_signals_again()
with capture_sigterm():
    try:
        session = Session()
        watched = weakref.ref(session, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        del session
        for _ in range(20):
            time.sleep(0.1)
        print("went on")
    except TerminationSignal:
        print("ended")
"""


def said(*, guarded: bool) -> tuple[str, str]:
    script = TOLD_WITHIN_A_CALLBACK.format(guarded=guarded)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280, check=False)
    return done.stdout.strip(), done.stderr


@pytest.mark.long
def test_a_signal_that_python_drops_in_a_callback_is_sent_again() -> None:
    out, errors = said(guarded=True)
    assert "TerminationSignal" in errors  # it was dropped, and Python said so
    assert out == "ended"


@pytest.mark.long
def test_a_dropped_signal_is_not_sent_again_by_python_and_prefect_alone() -> None:
    out, _ = said(guarded=False)
    assert out == "went on"


class Restarted(BaseHTTPRequestHandler):
    """A server that knows nothing of any run, and that it was asked."""

    asked = threading.Event()

    def do_GET(self) -> None:
        self.asked.set()
        self.send_error(404)

    do_POST = do_GET  # noqa: N815  the name that http.server looks for


@pytest.mark.long("ten seconds in which nothing listens")
def test_a_run_that_begins_while_its_server_restarts_waits_for_it() -> None:
    port = free_port()
    told = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT__FLOW_RUN_ID": str(uuid4())}
    begun = subprocess.Popen(
        [sys.executable, "-m", "deployments.engine"],
        env=os.environ | told,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(AWAY_SECONDS)
    with HTTPServer(("127.0.0.1", port), Restarted) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        asked = Restarted.asked.wait(60)
        begun.kill()
        begun.wait()
        server.shutdown()
        thread.join()
    assert asked
