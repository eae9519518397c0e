"""What flows take alike, each with what Prefect's form says of it. Policies say it of their fields themselves."""

from typing import Annotated, Any

from pydantic import AwareDatetime, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema


class FieldHelp:
    """What a form says of a parameter. Prefect reads docstrings alone, and drops the description of a `Field`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add it to the schema that the form is made of."""
        return {**handler(schema), "description": self._text}


DryRun = Annotated[bool, FieldHelp("Only say what would be done; switched off, it is done")]
AsOf = Annotated[
    AwareDatetime | None, FieldHelp("Judge ages, views and days as of this moment; else as of its due time")
]
PlanId = Annotated[str | None, FieldHelp("Carry out this saved plan, of at most 24 hours, as it stands")]
GraceDays = Annotated[
    Annotated[int, Field(ge=1, le=365)] | None,
    FieldHelp("Days in which what is retired can be restored, before its bytes are purged; else as the policy says"),
]
ServiceGraceDays = Annotated[
    Annotated[int, Field(ge=1, le=365)] | None,
    FieldHelp("The same for keys of the service's, which it may overwrite meanwhile"),
]
