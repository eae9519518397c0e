"""The `reelkeeper` command: a thin layer over operations that can also start flows; one file per group of commands."""

from reelkeeper.cli.commands import (
    accounts,
    alerts,
    api,
    audit,
    bill,
    bootstrap,
    catalogue,
    database,
    doubts,
    health,
    holds,
    plans,
    policy,
    queue,
    restore,
    run,
    scan,
    simulate,
    takedown,
    tokens,
    up,
    users,
    videos,
    webhooks,
)
from reelkeeper.cli.flow_help import FlowCommand
from reelkeeper.cli.front import app

FLOWS, PEOPLE, LOOK = "Flows", "Undo, hold and stop", "Show and import"
SERVE, LAW = "Serve", "Legal requests"
MONEY, TELL, SETUP = "Money", "Tell people", "Set up"

app.command(cls=FlowCommand, rich_help_panel=FLOWS)(run.run)
app.command(rich_help_panel=FLOWS)(plans.plan)
app.command(rich_help_panel=FLOWS)(plans.approve)
app.command(rich_help_panel=PEOPLE)(restore.restore)
app.command(rich_help_panel=PEOPLE)(holds.hold)
app.command(rich_help_panel=PEOPLE)(holds.freeze)
app.command(rich_help_panel=PEOPLE)(holds.thaw)
app.command(rich_help_panel=LOOK)(scan.scan)
app.add_typer(doubts.group, name="doubts", rich_help_panel=LOOK)
app.add_typer(queue.group, name="jobs", rich_help_panel=LOOK)
app.command(rich_help_panel=LOOK)(health.status)
app.add_typer(videos.group, name="videos", rich_help_panel=LOOK)
app.command(rich_help_panel=LAW)(takedown.takedown)
app.add_typer(users.group, name="users", rich_help_panel=LAW)
app.add_typer(audit.group, name="audit", rich_help_panel=LOOK)
app.command(rich_help_panel=LOOK)(queue.queue)
app.command(rich_help_panel=LOOK)(health.performance)
app.command(rich_help_panel=MONEY)(bill.bill)
app.add_typer(accounts.group, name="credits", rich_help_panel=MONEY)
app.add_typer(policy.group, name="policy", rich_help_panel=MONEY)
app.add_typer(catalogue.group, name="catalogue", rich_help_panel=MONEY)
app.add_typer(accounts.quota_group, name="quota", rich_help_panel=MONEY)
app.add_typer(simulate.group, name="simulate", rich_help_panel=LOOK)
app.command(rich_help_panel=MONEY)(bill.report)
app.command(rich_help_panel=MONEY)(bill.forecast)
app.add_typer(alerts.group, name="alerts", rich_help_panel=TELL)
app.command(rich_help_panel=TELL)(health.watchdog)
app.add_typer(webhooks.group, name="webhooks", rich_help_panel=TELL)
app.command(rich_help_panel=SERVE)(api.api)
app.command(rich_help_panel=SERVE)(up.up)
app.command(rich_help_panel=SERVE)(bootstrap.worker)
app.add_typer(tokens.group, name="tokens", rich_help_panel=SERVE)
app.command(rich_help_panel=SETUP)(bootstrap.bootstrap)
app.command(rich_help_panel=SETUP)(bootstrap.deploy)
app.command(rich_help_panel=SETUP)(bootstrap.migrate)
app.command(rich_help_panel=SETUP)(up.demo)
app.command(rich_help_panel=SETUP)(health.doctor)
app.add_typer(database.group, name="db", rich_help_panel=SETUP)
app.add_typer(up.s3_group, name="s3", rich_help_panel=SETUP)

__all__ = ["app"]
