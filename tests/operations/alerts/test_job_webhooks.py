"""A job's own URL gets its event, signed by the webhook at its origin, and harms nobody else."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from reelkeeper.errors import InputRefused
from reelkeeper.model.alerts import EventType, MessageState
from reelkeeper.model.requests import Given, Queued
from reelkeeper.operations.jobs.admit import admit, quoted
from reelkeeper.operations.jobs.settle import cancel
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import jobs
from reelkeeper.store.tables import webhook_endpoints as endpoints
from tests.doubles.receiver import Receiver
from tests.operations.alerts.test_webhooks import Service
from tests.operations.asking import fox
from tests.operations.books import DOLLAR, make_user


@pytest.fixture
def service(engine: sa.Engine) -> Iterator[Service]:
    make_user(engine, "ann", 10 * DOLLAR)
    with Receiver().serving() as receiver:
        yield Service(engine, receiver)


def end(service: Service, path: str, seed: int = 0) -> str:
    """Let a job with its own URL end; return its id."""
    given = Given({"order": "1"}, service.receiver.url(path))
    made = admit(service.engine, fox(seed=seed), user_id="ann", client_key=f"k{seed}", given=given)
    assert isinstance(made, Queued)
    cancel(service.engine, made.job_id, run_id="test")
    return made.job_id


def endpoint(service: Service) -> sa.Row[tuple[object, ...]]:
    with reading(service.engine) as session:
        return session.execute(sa.select(endpoints)).one()


def test_it_gets_the_jobs_event_signed_by_the_webhook_at_its_origin(service: Service) -> None:
    service.add("/all", EventType.VIDEO_PURGED)
    service.receiver.secrets["/own"] = service.receiver.secrets["/all"]
    job_id = end(service, "/own")
    assert (service.deliver().sent, service.deliver().sent) == (1, 0)
    (told,) = service.receiver.taken("/own")
    assert (told.type, told.data["job_id"], told.data["metadata"]) == ("job.ended", job_id, {"order": "1"})
    assert "webhook_url" not in told.data
    assert service.receiver.got["/all"] == []


def test_a_webhook_that_subscribes_gets_the_event_too(service: Service) -> None:
    service.add("/all", EventType.JOB_ENDED)
    service.receiver.secrets["/own"] = service.receiver.secrets["/all"]
    job_id = end(service, "/own")
    service.deliver()
    assert [each.data["job_id"] for path in ("/all", "/own") for each in service.receiver.taken(path)] == [job_id] * 2


def test_a_wrong_url_of_a_job_costs_its_own_event_alone(service: Service) -> None:
    service.add("/all", EventType.VIDEO_CHANGED)
    service.receiver.secrets["/own"] = service.receiver.secrets["/busy"] = service.receiver.secrets["/all"]
    service.receiver.always["/own"] = 410
    service.receiver.answers["/busy"] = [500]
    end(service, "/own", 1)
    end(service, "/busy", 2)
    service.happens("v1")
    service.deliver()
    assert sorted(service.event_states()) == [MessageState.GIVEN_UP, MessageState.SENT, MessageState.WAITING]
    assert (endpoint(service).failures, endpoint(service).disabled_at) == (0, None)
    service.later(60)
    service.deliver()
    assert len({each.id for each in service.receiver.got["/busy"]}) == 1
    assert len(service.receiver.taken("/busy")) == 1


def test_a_url_that_works_does_not_make_a_failing_webhook_well(service: Service) -> None:
    service.add("/all", EventType.VIDEO_CHANGED)
    service.receiver.secrets["/own"] = service.receiver.secrets["/all"]
    service.receiver.always["/all"] = 500
    service.happens("v1")
    service.deliver()
    failing_since = endpoint(service).failing_since
    assert failing_since
    service.later(600, endpoints.c.closed_until)
    end(service, "/own")
    service.deliver()
    assert len(service.receiver.taken("/own")) == 1
    assert endpoint(service).failing_since == failing_since


@pytest.mark.parametrize("other", ["http://127.0.0.1:1/own", "https://127.0.0.1/own", "http://localhost/own"])
def test_a_url_at_no_webhooks_origin_is_refused(service: Service, other: str) -> None:
    service.add("/all")
    given = Given({}, other)
    with pytest.raises(InputRefused):
        quoted(service.engine, fox(), user_id="ann", given=given)
    with pytest.raises(InputRefused):
        admit(service.engine, fox(), user_id="ann", client_key="k1", given=given)
    with reading(service.engine) as session:
        assert session.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one() == 0
