"""Models that remember what they have made of their fields, and send and copy the fields alone."""

from typing import Any, Self

from pydantic import BaseModel


class FieldsOnly(BaseModel):
    """A frozen model with cached properties: each is made again in another process, and in a copy with other fields."""

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out what is made of the fields: a function cannot be sent."""
        state = super().__getstate__()
        return {**state, "__dict__": {name: state["__dict__"][name] for name in type(self).model_fields}}

    def __copy__(self) -> Self:
        """Leave out the same: it would be of the fields before."""
        copied = super().__copy__()
        for made in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[made]
        return copied
