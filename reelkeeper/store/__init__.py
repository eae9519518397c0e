"""The store: tables, migrations, and queries named for the question asked; here, the types that its callers name."""

from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlmodel import Session

__all__ = ["DBAPIError", "Engine", "IntegrityError", "OperationalError", "SQLAlchemyError", "Session"]
