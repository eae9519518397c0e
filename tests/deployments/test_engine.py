"""The process of a flow run ends on SIGTERM, whatever its main thread is doing."""

import subprocess
import sys

import pytest

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
