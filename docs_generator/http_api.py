"""The reference of the HTTP API, from the OpenAPI document of the service."""

from functools import cache
from typing import Any

from docs_generator.markdown import cell
from src.mlops.io.markdown import table as markdown_table
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings


@cache
def _document() -> dict[str, Any]:
    return create_app(Settings(model="none")).openapi()


def routes() -> str:
    """Returns one section for each route: parameters, body and responses."""
    return "\n".join(
        _route(method.upper(), path, operation)
        for path, methods in _document()["paths"].items()
        for method, operation in methods.items()
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"### `{method} {path}`\n", f"{cell(operation.get('description', ''))}\n"]
    parameters = [
        [f"`{entry['name']}`", entry["in"], _kind(entry["schema"]), cell(entry.get("description", ""))]
        for entry in operation.get("parameters", [])
    ]
    if parameters:
        parts.append(markdown_table("parameter|in|type|meaning", parameters))
    if body := operation.get("requestBody"):
        parts.append(f"Body: {_body(body['content'])}.\n")
    answers = []
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        media = ", ".join(f"`{name}`" for name in content)
        kinds = {_kind(entry.get("schema", {})) for entry in content.values()}
        meaning = cell(response["description"]).replace("Successful Response", "Success.")
        answers.append(
            [
                status,
                meaning,
                " ".join(filter(None, [media, *sorted(kinds)])),
            ]
        )
    parts.append(markdown_table("status|meaning|content", answers))
    return "\n".join(parts)


def _body(content: dict[str, Any]) -> str:
    words = []
    images = [name for name in content if name.startswith("image/") or name == "application/octet-stream"]
    for name, entry in content.items():
        if name in images:
            continue
        fields = _resolved(entry["schema"]).get("properties", {})
        parts = ", ".join(f"`{field}`" for field in fields)
        kind = f"{_kind(entry['schema'])} " if "$ref" in entry["schema"] else ""
        words.append(f"{kind}as `{name}` with {parts}")
    if images:
        words.append(f"the bytes of the image as {', '.join(f'`{name}`' for name in images)}")
    return "; or ".join(words)


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return dict(_document()["components"]["schemas"][name]) if name else schema


def schemas() -> str:
    """Returns one section for each JSON object of the API."""
    sections = []
    for name, schema in sorted(_document()["components"]["schemas"].items()):
        required = schema.get("required", [])
        rows = [
            [
                f"`{field}`",
                _kind(entry),
                "yes" if field in required else "",
                cell(entry.get("description", "")),
            ]
            for field, entry in schema.get("properties", {}).items()
        ]
        table = markdown_table("field|type|always present|meaning", rows)
        sections.append(f"### {name}\n\n{_purpose(schema)}\n\n{table}")
    return "\n".join(sections)


def _purpose(schema: dict[str, Any]) -> str:
    return cell(schema.get("description", "").partition("Attributes:")[0])


def _kind(schema: dict[str, Any]) -> str:
    """Describes the type of a value, with a link to the section of an object."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if schema.get("format") == "binary":
        return "bytes"
    kind = str(schema.get("type", ""))
    return {"string": "text", "boolean": "true or false"}.get(kind, kind)
