"""The store: tables, migrations and queries, each named for its question. This module exports the types for callers."""

from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlmodel import Session

__all__ = ["DBAPIError", "Engine", "IntegrityError", "OperationalError", "SQLAlchemyError", "Session"]
