"""The OpenAPI document: what is asked, by the schemas that check it, and what is answered."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from glassgate import __version__
from glassgate.folder.cutting import WHITE_SPACE
from glassgate.folder.vocabulary import Vocabulary
from glassgate.runtime import Model
from glassgate.server.application import Route
from glassgate.trace import NAMES

__all__ = ["document"]

Schema = dict[str, Any]

MOST_LISTED = 1000  # words of a closed vocabulary
SPECIAL = re.compile(r"[.^$*+?()\[\]{}|\\/]")  # in a pattern, also one of ECMAScript

REFUSALS = {
    "400": "The body is no JSON.",
    "401": "The token is missing or wrong.",
    "403": "The request comes from a page of another site.",
    "404": "There is no such path or model.",
    "405": "The method is another.",
    "408": "The body came too slowly.",
    "413": "The body, or what would be computed from it, is too large.",
    "415": "The body is not declared as JSON.",
    "421": "The Host header names another site.",
    "422": "A value is out of bounds, or the model does not know a word.",
    "429": "The server is busy.",
    "503": "The server did not come to the end of it in time.",
}


def document(routes: Mapping[str, Route], model: Model, name: str, needs_token: bool, at: str = "") -> Schema:
    """Describe the paths that have a summary.

    Parameters
    ----------
    routes
        The server's paths.
    model
        The served model: its gates, layers and words are what edits and prompts may name.
    name
        What it is called.
    needs_token
        Whether requests need a token.
    at
        What stands before the paths, where it is not the first model.

    Returns
    -------
    dict
        An OpenAPI 3.1 document.
    """
    bodies = {route.body for route in routes.values() if route.body is not None}
    _, definitions = models_json_schema(
        [(body, "validation") for body in sorted(bodies, key=lambda body: body.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    schemas: dict[str, Schema] = definitions["$defs"]
    _fit(schemas, model, name)
    schemas |= _ANSWERS
    paths = {path: _path(path, route) for path, route in routes.items() if route.summary}
    described: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "glassgate",
            "version": __version__,
            "description": "A next-word model and its gates.",
        },
        **({"servers": [{"url": at}]} if at else {}),
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if needs_token:
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


def _fit(schemas: dict[str, Schema], model: Model, name: str) -> None:
    """Put in what depends on the model: which gates, layers, units and words there are."""
    config = model.config
    edit = schemas["EditBody"]["properties"]
    edit["gate"] = {"enum": list(NAMES[config.cell])}
    edit["layer"]["anyOf"][0] = {"enum": list(model.network.targets)}
    edit["units"]["anyOf"][0]["items"]["maximum"] = config.hidden - 1
    completion = schemas["Completion"]["properties"]
    completion["model"]["anyOf"][0] = {"enum": [name]}
    for form in completion["prompt"]["anyOf"]:
        for items in (form.get("items", {}), form.get("items", {}).get("items", {})):
            if items.get("type") == "integer":
                items["maximum"] = len(model.vocabulary) - 1
    if model.vocabulary.unk is None:
        _close(schemas, model.vocabulary)


def _close(schemas: dict[str, Schema], vocabulary: Vocabulary) -> None:
    """Say that each word must be known; which these are, where they are few.

    A text that ``complete`` is for has a word, or <eos>, before the one that is begun.
    """
    known: Schema = {"description": "Words that the model knows, with spaces between; marks may adjoin them."}
    begun: Schema = {"description": "Words that the model knows, and behind them what is begun, if anything."}
    empty = vocabulary.eos is not None
    if len(vocabulary) <= MOST_LISTED:
        spelled = [SPECIAL.sub(r"\\\g<0>", word) for word in vocabulary.words]
        word = f"({'|'.join(spelled)})"
        white, other = f"[{WHITE_SPACE}]", f"[^{WHITE_SPACE}]"
        some = f"{word}({white}+{word})*"
        known["pattern"] = f"^{white}*({some}){'?' if empty else ''}{white}*$"
        begun["pattern"] = f"^{white}*({some}{white}+){'?' if empty else ''}{other}*$"
    elif not empty:
        known["minLength"] = begun["minLength"] = 1
    for name in ("Generate", "Traced", "Edited"):
        schemas[name]["properties"]["text"] |= known
    schemas["Predict"]["anyOf"] = [
        {"properties": {"text": known, "complete": {"const": False}}},
        {"properties": {"text": begun, "complete": {"const": True}}, "required": ["complete"]},
    ]
    completion = schemas["Completion"]
    prompt = completion["properties"]["prompt"]
    one, several = prompt["anyOf"][:2]
    one |= known
    several["items"] |= known
    if not empty:
        del prompt["default"]
        completion["required"] = ["prompt"]


def _path(path: str, route: Route) -> Schema:
    media, schema = _GIVES.get(path, ("application/json", {"type": "object"}))
    content = {media: {"schema": schema}}
    if path == "/v1/completions":
        content["text/event-stream"] = {"schema": _EVENT}
    responses: Schema = {"200": {"description": "Done.", "content": content}}
    post = route.body is not None
    for status, meaning in REFUSALS.items():
        if post or status in ("401", "403", "404", "405", "421"):
            error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            responses[status] = {"description": meaning, "content": error}
    operation: Schema = {
        "summary": route.summary,
        "operationId": path.strip("/").replace("/", "_"),
        "responses": responses,
    }
    if route.public:
        operation["security"] = []
    if route.body is not None:
        reference = {"$ref": f"#/components/schemas/{route.body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
    return {"post" if post else "get": operation}


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer", "minimum": 0}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1.000001}
_OR_NULL: Schema = {"type": ["string", "null"]}

_ANSWERS: dict[str, Schema] = {
    "Error": _object(error=_object(message=_TEXT, type=_TEXT, param=_OR_NULL, code=_OR_NULL)),
    "Word": _object(word=_TEXT, probability=_SHARE),
    "Values": _object(shape=_list(_WHOLE), float32={"type": "string", "contentEncoding": "base64"}),
    "Layer": _object(
        name=_TEXT,
        cell={"enum": ["lstm", "gru"]},
        reset={"enum": ["before", "after", None]},
        units=_WHOLE,
        values={"type": "object", "additionalProperties": _reference("Values")},
    ),
    "Choice": _object(
        index=_WHOLE,
        text=_TEXT,
        logprobs={"type": ["object", "null"]},
        finish_reason={"enum": ["stop", "length", None]},
    ),
    "Usage": _object(prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE),
    "Model": _object(id=_TEXT, object={"const": "model"}, created=_WHOLE, owned_by=_TEXT),
}

_EVENT: Schema = {"type": "object", "properties": {"data": _TEXT}, "required": ["data"]}
_WORDS = _list(_reference("Word"))
_GIVES: dict[str, tuple[str, Schema]] = {
    "/health": (
        "application/json",
        _object(status={"const": "ok"}, version=_TEXT, token={"type": "boolean"}),
    ),
    "/metrics": ("text/plain", _TEXT),
    "/predict": ("application/json", _object(words=_WORDS)),
    "/generate": ("text/event-stream", _EVENT),
    "/trace": (
        "application/json",
        _object(words=_list(_TEXT), layers=_list(_reference("Layer")), next=_WORDS, begun=_TEXT),
    ),
    "/edit": ("application/json", _object(before=_WORDS, after=_WORDS, begun=_TEXT)),
    "/v1/models": ("application/json", _object(object={"const": "list"}, data=_list(_reference("Model")))),
    "/v1/completions": (
        "application/json",
        _object(
            id=_TEXT,
            object={"const": "text_completion"},
            created=_WHOLE,
            model=_TEXT,
            choices=_list(_reference("Choice")),
            usage=_reference("Usage"),
        ),
    ),
}
