"""`forecast`: what this month and the next will cost, also if usage grew otherwise."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import emit, out, say, table


def forecast(
    months: Annotated[int, typer.Option(min=1, max=12, help="Months to show, this one included.")] = 3,
    growth: Annotated[
        float | None,
        typer.Option(
            min=-90, max=900, metavar="PERCENT", help="What if: usage grows so many percent a month from now on."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Forecast the bill by service, model and provider, with bands that hold 80 and 95 of 100 such months.

    Nothing of it is kept.

    Retention and prices are those of the policies in force; what users used is what was counted up to yesterday.
    """
    from reelkeeper.operations.core.policies import current
    from reelkeeper.operations.forecast.forecast import predict_costs, predict_resource_needs
    from reelkeeper.rules.forecast.costs import in_dollars

    as_of = datetime.now(UTC)
    with store() as engine, out.status("forecasting", spinner="dots"):
        policies = current(engine).policies
        costs = predict_costs(engine, as_of, policies=policies, months=months, growth_percent_per_month=growth)
        needs = predict_resource_needs(engine, as_of, growth_percent_per_month=growth)
    if as_json:
        emit({"as_of": as_of, "growth_percent_per_month": growth, "costs": costs, "next_month": needs})
        return
    table(
        ("month", "service", ">expected", ">80 %", ">95 %"),
        [
            (
                f"{cost.month:%Y-%m}",
                cost.service or "total",
                in_dollars(cost.mean_usd),
                *(f"{in_dollars(lower)} to {in_dollars(upper)}" for lower, upper in (cost.bounds[80], cost.bounds[95])),
            )
            for cost in costs
        ],
    )
    for service, method in {cost.service: cost.method for cost in costs if cost.is_service}.items():
        say(f"{service}: {method}.")
    if needs.stored_bytes is not None:
        say(f"At the end of {needs.month:%B}: {needs.stored_bytes / 10**9:,.1f} GB stored.")
