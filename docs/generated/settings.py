"""Every setting, from the class that reads them."""

from os import PathLike

from docs.generated import tables
from docs.generated.tables import code, kind
from reelkeeper.settings import Settings
from reelkeeper.vendor_settings import VendorSettings


def table(_argument: str = "") -> str:
    """Return a row for each item."""
    schema = Settings.model_json_schema(by_alias=False)
    rows = [
        (
            f"`REELKEEPER_{name.upper()}`",
            kind(schema["properties"][name], schema.get("$defs", {})).replace(" or null", ""),
            "unset" if field.default is None else _shown(field.default),
            field.description or "",
        )
        for name, field in sorted(
            Settings.model_fields.items(), key=lambda item: item[0] in VendorSettings.model_fields
        )
    ]
    return tables.table(("variable", "type", "default", "description"), rows)


def _shown(default: object) -> str:
    return code(str(default)) if isinstance(default, PathLike) else code(default)
