"""The fields of a record, and the check whether a line of the log is a record.

Anybody can write files into the folder of a log, and disks and programs have faults. So all readers use `parse_line`
or `check_row`, and only see records whose values have the right types.
"""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic_core import CoreSchema, SchemaValidator, ValidationError
from pydantic_core.core_schema import (
    bool_schema,
    datetime_schema,
    float_schema,
    int_schema,
    list_schema,
    nullable_schema,
    str_schema,
    typed_dict_field,
    typed_dict_schema,
)

from src.mlops.monitoring.descriptors import DESCRIPTORS

Record = dict[str, Any]
Kind = Literal["integer", "number", "text", "time", "flag", "integers"]
SCHEMA_VERSION = 1  # raised when a field changes its meaning or disappears; new fields do not raise it
# The clock of a machine without a battery starts in 1970. Much later times do not fit into a pandas timestamp.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
LARGEST = 1e9  # absolute value of a number; no field comes near it, and its square fits into a float32

# docs/reference/prediction-log.md documents them. They are flat, because all readers load flat rows.
KINDS: dict[str, Kind] = {
    "schema_version": "integer",
    "record_id": "text",
    "time": "time",
    "request_id": "text",
    "image_number": "integer",
    "model_version": "text",
    "class_list": "text",
    "predicted_class": "integer",
    "class_name": "text",
    "probability": "number",
    "prediction_set": "integers",
    "is_unknown": "flag",
    "energy": "number",
    **dict.fromkeys(DESCRIPTORS, "number"),
    "width": "integer",
    "height": "integer",
    "jpeg_quality": "integer",
    "latency_ms": "number",
    "image": "text",
    "image_probability": "number",
    "shadow_model_version": "text",
    "shadow_predicted_class": "integer",
    "shadow_probability": "number",
    "shadow_is_unknown": "flag",
    "embedding": "text",
}
FIELDS = tuple(KINDS)
# All others can be missing or null: releases add fields, and a number that is NaN is written as null.
_REQUIRED = {"schema_version", "record_id", "time", "model_version", "class_list", "predicted_class", "embedding"}
_INTEGER = int_schema(strict=True, ge=0, le=2**31 - 1)
_SCHEMAS: dict[Kind, CoreSchema] = {
    "integer": _INTEGER,
    "number": float_schema(strict=True, allow_inf_nan=False, ge=-LARGEST, le=LARGEST),
    "text": str_schema(strict=True),
    "time": datetime_schema(strict=True, tz_constraint="aware", ge=EARLIEST, lt=LATEST),
    "flag": bool_schema(strict=True),
    "integers": list_schema(_INTEGER, strict=True),
}


def _validator() -> SchemaValidator:
    schemas = {
        name: _SCHEMAS[kind] if name in _REQUIRED else nullable_schema(_SCHEMAS[kind]) for name, kind in KINDS.items()
    }
    schemas["schema_version"] = int_schema(strict=True, ge=1, le=SCHEMA_VERSION)
    fields = {name: typed_dict_field(schema, required=name in _REQUIRED) for name, schema in schemas.items()}
    return SchemaValidator(typed_dict_schema(fields, extra_behavior="allow"))


_VALIDATOR = _validator()


def parse_line(line: bytes) -> Record | None:
    """Returns the record in a line of JSON, with `time` as a `datetime` in UTC; None if the line is not a record."""
    try:
        return _in_utc(_VALIDATOR.validate_json(line))
    except ValidationError:
        return None


def check_row(row: Record) -> Record | None:
    """Returns a row of a Parquet file as a record; None if it is not one."""
    try:
        return _in_utc(_VALIDATOR.validate_python(row))
    except ValidationError:
        return None


def _in_utc(record: Record) -> Record:
    record["time"] = record["time"].astimezone(UTC)
    return record
