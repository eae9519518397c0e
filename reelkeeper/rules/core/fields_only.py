"""Models with cached properties, of which only the fields are pickled and copied."""

from typing import Any, Self

from pydantic import BaseModel


class FieldsOnly(BaseModel):
    """A frozen model with cached properties, which are computed again in another process, and in a copy."""

    def __getstate__(self) -> dict[Any, Any]:
        """Leave out cached properties: functions cannot be pickled."""
        state = super().__getstate__()
        return {**state, "__dict__": {name: state["__dict__"][name] for name in type(self).model_fields}}

    def __copy__(self) -> Self:
        """Leave out cached properties: they would belong to the earlier fields."""
        copied = super().__copy__()
        for made in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[made]
        return copied
