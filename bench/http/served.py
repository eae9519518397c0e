"""`python -m bench.http.served bare|ours STORE_URL`: serve on a free port of loopback, and print the port."""

import socket
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, HTTPException
from sqlmodel import Session

from reelkeeper.adapters.s3 import r2
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.rules.core.access import AccessPolicy
from reelkeeper.store.core.engine import open_engine
from reelkeeper.store.tables import videos

_UNHURRIED = AccessPolicy(requests_a_second=100_000, burst=1_000_000)


def bare(engine: sa.Engine) -> FastAPI:
    """Make the floor: FastAPI, one route, one indexed SELECT, nothing else."""
    app = FastAPI()

    @app.get("/videos/{video_id}")
    def video(video_id: str) -> dict[str, str]:
        with Session(engine) as session:
            found = session.execute(sa.select(videos.c.id, videos.c.state).where(videos.c.id == video_id)).one_or_none()
        if found is None:
            raise HTTPException(404)
        return {"id": found.id, "state": found.state}

    return app


def ours(engine: sa.Engine, folder: Path) -> FastAPI:
    """Make Reelkeeper's app. No request of this benchmark reaches its bucket."""
    app_state = AppState(Workspace(engine, Mock(spec=r2.Bucket), "bench"), folder)
    app_state.load.limit(_UNHURRIED)
    return create_app(app_state)


def main() -> None:
    """Serve until a signal to stop."""
    which, url = sys.argv[1:]
    engine = open_engine(url)
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listening:
        app = bare(engine) if which == "bare" else ours(engine, Path(folder))
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        server.run(sockets=[listening])


if __name__ == "__main__":
    main()
