"""Serve all flows of prefect.yaml in one process, without pools and workers: `python -m deployments.serve`."""

from deployments import orchestration
from reelkeeper.settings import settings


def main() -> None:
    """Serve the flows of prefect.yaml until Ctrl-C."""
    configuration = settings()
    orchestration.join_server(configuration.state_dir)
    from prefect import serve  # noqa: PLC0415  reads the environment that was just set

    from deployments.deploy import declared_deployments  # noqa: PLC0415  the same
    from deployments.machine import Machine  # noqa: PLC0415  the same
    from deployments.up import find_prefect_yaml  # noqa: PLC0415  the same

    Machine(configuration).require()
    serve(*declared_deployments(find_prefect_yaml()))


if __name__ == "__main__":
    main()
