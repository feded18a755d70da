"""Values of parquet files that JSON does not have: dates, times, decimals and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

_OF_JSON = (str, int, float, type(None))


def foreign_columns(schema: pyarrow.Schema) -> list[str]:
    """The names of the columns that may hold such values."""
    return [field.name for field in schema if _is_foreign(field.type)]


def json_value(value: Any) -> Any:
    """A value as JSON holds it: dates, times and decimals in words, bytes as their UTF-8 text, or
    null where they are none.
    """
    if isinstance(value, _OF_JSON):
        return value
    if isinstance(value, dict):
        return {name: json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return str(value)


def _is_foreign(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_foreign(kind.value_type)
    return (
        types.is_temporal(kind)
        or types.is_decimal(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or any(_is_foreign(kind.field(number).type) for number in range(kind.num_fields))
    )
