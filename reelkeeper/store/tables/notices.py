"""Tables of notices that a video will be retired, of their deliveries, and of requests to keep a video."""

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from reelkeeper.store.tables.columns import UtcDateTime, counted


class NoticeRow(SQLModel, table=True):
    """A notice that a video will be retired. It is in force until `ended_at`; a video has one in force at a time."""

    __tablename__ = "notices"
    __table_args__ = (
        sa.Index(
            "one_standing_notice_a_video",
            "video_id",
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
        sa.Index("ix_notices_given", "given_at"),
    )
    id: int | None = Field(None, sa_column=counted())
    video_id: str = Field(foreign_key="videos.id")
    tier: str
    days: int  # the promised days of notice
    rule: str
    given_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)  # the earliest retirement that it states
    run_id: str
    ended_at: datetime | None = Field(None, sa_type=UtcDateTime)
    end: str | None = None  # the reason why it ended


class NoticeDelivery(SQLModel, table=True):
    """The delivery of a notice to one endpoint: taken, released by an operator, or still open."""

    __tablename__ = "notice_deliveries"
    __table_args__ = (
        sa.Index("ix_notice_deliveries_message", "message_id"),
        sa.Index("ix_notice_deliveries_endpoint", "endpoint_id"),
    )
    notice_id: int = Field(
        sa_column=sa.Column(sa.BigInteger, sa.ForeignKey("notices.id"), primary_key=True, autoincrement=False)
    )
    endpoint_id: str = Field(primary_key=True)
    message_id: int = Field(sa_type=sa.BigInteger)  # in the outbox, which deletes old messages
    delivered_at: datetime | None = Field(None, sa_type=UtcDateTime)
    released_at: datetime | None = Field(None, sa_type=UtcDateTime)


class KeepRow(SQLModel, table=True):
    """A request to keep a video, and until when. Each counts as one prolongation."""

    __tablename__ = "keeps"
    __table_args__ = (sa.Index("ix_keeps_video", "video_id"), sa.Index("ix_keeps_until", "until"))
    id: str = Field(primary_key=True)
    video_id: str = Field(foreign_key="videos.id")
    author: str
    at: datetime = Field(sa_type=UtcDateTime)
    days: int
    until: datetime = Field(sa_type=UtcDateTime)
