"""A run is found by the first characters of its id."""

import sqlalchemy as sa

from reelkeeper.store.core.audit import Event, append, runs_beginning_with
from reelkeeper.store.core.engine import reading, transaction


def test_runs_are_found_by_their_first_characters_and_one_of_just_that_id_alone(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        append(session, [Event("retire", run_id, "v", 1, "u", {}) for run_id in ("ab", "ab1", "ab2", "a_", "ab1")])
    with reading(engine) as session:
        assert runs_beginning_with(session, "a", limit=3) == ["a_", "ab", "ab1"]
        assert runs_beginning_with(session, "ab", limit=3) == ["ab"]
        assert runs_beginning_with(session, "ab1", limit=3) == ["ab1"]
        assert runs_beginning_with(session, "a_", limit=3) == ["a_"]
        assert runs_beginning_with(session, "%", limit=3) == []
