"""The body that Prefect's server renders and sends to our API when a run goes wrong."""

from uuid import uuid4

import pytest
from prefect.events.actions import CallWebhook
from prefect.server.events.jinja_filters import all_filters
from prefect.server.schemas.core import Flow
from prefect.server.schemas.responses import FlowRunResponse
from prefect.server.schemas.states import Failed
from prefect.server.utilities.user_templates import register_user_template_filters, render_user_template_sync

from deployments.automations import telling
from reelkeeper.api.routes.hooks import TroubledRun


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
