"""Which runs automations act on, and the body that Prefect's server sends to our API when one goes wrong."""

from uuid import uuid4

import pytest
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore
from prefect.server.events.jinja_filters import all_filters
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import RelatedResource, Resource
from prefect.server.schemas.core import Flow
from prefect.server.schemas.responses import FlowRunResponse
from prefect.server.schemas.states import Failed
from prefect.server.utilities.user_templates import register_user_template_filters, render_user_template_sync

from deployments.automations import AGAIN, FAILED_BY, inner, telling
from reelkeeper.api.routes.hooks import TroubledRun
from tests.e2e.installation import NAMES


@pytest.mark.parametrize("automation", [*inner(), *telling(uuid4())], ids=lambda automation: automation.name)
def test_an_automation_acts_on_runs_of_our_flows_alone(automation: AutomationCore) -> None:
    """Others may use the same server: their runs have no heartbeat, and may wait an hour for a machine."""
    trigger = EventTrigger.model_validate(automation.trigger.model_dump())
    run = Resource(
        {"prefect.resource.id": f"prefect.flow-run.{uuid4()}", "prefect.state-message": f"{FAILED_BY}Unavailable: x"}
    )
    tags = [f"prefect.tag.{tag}" for tag in (AGAIN, "auto-scheduled")]

    def covers(flow: str) -> bool:
        related = [{"prefect.resource.role": "tag", "prefect.resource.id": tag} for tag in tags]
        related += [
            {"prefect.resource.role": "flow", "prefect.resource.id": "prefect.flow.1", "prefect.resource.name": flow}
        ]
        return trigger.covers_resources(run, [RelatedResource(each) for each in related])

    assert {flow: covers(flow) for flow in (*NAMES, "nightly-etl")} == dict.fromkeys(NAMES, True) | {
        "nightly-etl": False
    }


@pytest.mark.parametrize(
    ("has_deployment", "parameters", "is_manual_dry_run"),
    [
        (False, {"dry_run": True}, True),
        (False, {"dry_run": False}, False),
        (False, {}, False),
        (True, {"dry_run": True}, False),
    ],
)
def test_a_report_says_whether_the_run_was_a_dry_run_by_hand(
    has_deployment: bool, parameters: dict[str, bool], is_manual_dry_run: bool
) -> None:
    register_user_template_filters(all_filters)
    flow = Flow(name="tier-storage")
    deployment_id = uuid4() if has_deployment else None
    run = FlowRunResponse(
        flow_id=flow.id,
        parameters=parameters,
        deployment_id=deployment_id,
        state=Failed(message="no disk"),
        labels={},
    )
    for automation in telling(uuid4()):
        (call,) = automation.actions
        assert isinstance(call, CallWebhook)
        sent = TroubledRun.model_validate_json(
            render_user_template_sync(str(call.payload), {"flow": flow, "flow_run": run})
        )
        assert (sent.flow, sent.message, sent.is_manual_dry_run) == ("tier-storage", "no disk", is_manual_dry_run)
