"""The store: tables, migrations, and queries named for the question asked; here, the types that its callers name."""

from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlmodel import Session

__all__ = ["Engine", "OperationalError", "SQLAlchemyError", "Session"]
