"""The API as OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fer_keras
from serving.uploads import IMAGE_TYPES

_ERRORS = {
    400: "the request can't be understood",
    401: "the token is missing or wrong",
    403: "caused by a page of another site",
    404: "there is no such thing",
    405: "this address does not take this method",
    408: "the request came too slowly",
    413: "too many bytes or pixels",
    415: "not a kind of file or body that is read here",
    421: "asked under a name that is not this machine's, without a token",
    422: "a value does not fit",
    500: "the server failed",
    503: "too many at once, stopping, or not loaded yet; try again later",
    507: "there is no room on the server's disk",
}
_TABLE = "a row a face a frame, or one without track_id; boxes are in pixels of a picture of the row's width and height"
_TEXT = {"type": "string"}
_EVERYWHERE = (401, 403, 405, 421, 500, 503)


def describe(
    *, models: Sequence[str], sources: Sequence[str], detectors: Sequence[str], max_batch: int, token: bool, root: str = ""
) -> dict[str, Any]:
    """The description, with what this server has: its models, sources and detectors, and whether it wants a token.

    root: the path that a proxy serves it under, such as "/fer".
    """
    model, detector, source = ({"type": "string", "enum": list(names)} for names in (models, detectors, sources))
    faces = {
        "type": "string",
        "enum": ["auto", "full"],
        "default": "auto",
        "description": "auto: find the faces; full: the picture is one face",
    }
    options = {"faces": faces, "model": model, "detector": detector}
    asked = [_query("faces", faces), _query("model", model), _query("detector", detector)]
    at_source = [_query("source", source, "default: the first one")]
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000000}, "end after so many; default: never")
    base64 = {"type": "string", "contentEncoding": "base64", "description": "an image file; a data URL is taken too"}
    binary = {"type": "string", "format": "binary"}
    one_image = {
        "multipart/form-data": _content(_object({"image": binary, **options}, ["image"])),
        "application/json": _content(_object({"image": base64, **options}, ["image"])),
        **{kind: _content({"type": "string", "format": "binary"}) for kind in IMAGE_TYPES},
    }
    some = {"minItems": 1, "maxItems": max_batch, "type": "array"}
    many_images = {
        "multipart/form-data": _content(_object({"images": {**some, "items": binary}, **options}, ["images"])),
        "application/json": _content(_object({"images": {**some, "items": base64}, **options}, ["images"])),
    }
    status = {"200": _json("the source's state now", _ref("Stream"))}
    paths = {
        "/api/predict": {
            "post": _operation("The faces of one picture", asked, one_image, {"200": _json("its faces", _ref("Picture"))})
        },
        "/api/predict/batch": {
            "post": _operation(
                "The faces of several pictures", asked, many_images, {"200": _json("in the order sent", _ref("Pictures"))}
            )
        },
        "/api/webcam": {
            "post": _operation(
                "The next picture of a camera: faces with ids, smoothed over time",
                [
                    _query("session", {"type": "string", "pattern": "^[0-9a-f]{16,64}$"}, required=True),
                    _query("model", model),
                    _query("detector", detector),
                ],
                {kind: _content({"type": "string", "format": "binary"}) for kind in IMAGE_TYPES},
                {"200": _json("its faces", _ref("Picture"))},
            )
        },
        "/api/video": {
            "post": _operation(
                "The faces of a video, a line of JSON for each analysed frame",
                [_query("model", model), _query("detector", detector)],
                {"multipart/form-data": _content(_object({"video": binary, "model": model, "detector": detector}, ["video"]))},
                {
                    "200": _items(
                        "one JSON object a line: a VideoHead, VideoFrames, and a VideoEnd or VideoError",
                        "application/x-ndjson",
                        _ref("VideoLine"),
                    )
                },
            )
        },
        "/api/models": {"get": _operation("The models that can be chosen", [], None, {"200": _json("models", _ref("Models"))})},
        "/api/stream": {
            "get": _operation(
                "The state of every source",
                [],
                None,
                {"200": _json("all", _object({"sources": {"type": "array", "items": _ref("Stream")}}, ["sources"]))},
            )
        },
        "/api/stream/video": {
            "get": _operation(
                "The stream as MJPEG",
                [*at_source, limit],
                None,
                {"200": _answer("a JPEG a part", "multipart/x-mixed-replace")},
                endless=True,
            )
        },
        "/api/stream/events": {
            "get": _operation(
                "Results as server-sent events",
                [*at_source, limit, _query("max_hz", {"type": "number", "minimum": 0.1, "maximum": 100}, "default: 10")],
                None,
                {"200": _items("each event's data is JSON, a StreamEvent", "text/event-stream", _event(_ref("StreamEvent")))},
                endless=True,
            )
        },
        "/api/stream/snapshot.jpg": {
            "get": _operation("One picture with its boxes", at_source, None, {"200": _answer("a JPEG", "image/jpeg")})
        },
        "/api/stream/settings": {
            "post": _operation(
                "Switch model or detector of a source",
                [],
                {"application/json": _content(_object({"source": source, "model": model, "detector": detector}))},
                status,
            )
        },
        "/api/recording": {
            "post": _operation(
                "Start or stop writing down results; never pictures",
                [],
                {"application/json": _content(_object({"source": source, "recording": {"type": "boolean"}}, ["recording"]))},
                status,
            )
        },
        "/api/results.csv": {"get": _operation("What was recorded", at_source, None, {"200": _answer(_TABLE, "text/csv")})},
        "/healthz": {"get": _operation("Whether the process answers", [], None, {"200": _json("it does", _ref("Health"))})},
        "/readyz": {"get": _operation("Whether the model is loaded", [], None, {"200": _json("it is", _ref("Health"))})},
        "/metrics": {"get": _operation("For Prometheus", [], None, {"200": _answer("metrics", "text/plain")})},
        "/api/openapi.json": {"get": _operation("This description", [], None, {"200": _json("OpenAPI 3.1", {"type": "object"})})},
    }
    answers: dict[str, Any] = {"schemas": _schemas()}
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "fer_keras",
            "version": fer_keras.__version__,
            "description": "Faces in pictures and streams, and which expression each shows as annotators would name it.",
        },
        "paths": paths,
        "components": answers,
    }
    if root:
        described["servers"] = [{"url": root}]
    if token:
        answers["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
        for path in ("/healthz", "/readyz"):
            paths[path]["get"]["security"] = []
    return described


def _schemas() -> dict[str, Any]:
    number, text = {"type": "number"}, _TEXT
    share = {"type": "number", "minimum": 0, "maximum": 1}
    whole = {"type": "integer", "minimum": 0}
    face = {
        "id": {"type": "integer", "minimum": 1, "description": "stable from picture to picture"},
        "box": {"type": "array", "items": number, "minItems": 4, "maxItems": 4, "description": "x1, y1, x2, y2 in pixels"},
        "score": {"type": ["number", "null"], "description": "the detector's; null where the picture is the face"},
        "label": {"type": "string", "description": "the most probable; in a stream or film kept until another is clearly ahead"},
        "confidence": share | {"description": "the probability of `label`"},
        "uncertain": {"type": "boolean"},
        "detected": {"type": "boolean", "description": "found in this very picture, not carried from one before"},
        "seen": {"type": "boolean", "description": "false where it was looked for in this picture and not found"},
        "probabilities": {"type": "object", "additionalProperties": share},
    }
    needed = ["box", "score", "label", "confidence", "uncertain", "probabilities"]
    faces = {"type": "array", "items": _ref("Face")}
    picture = {"width": whole, "height": whole, "model": text, "faces": faces}
    error = _object({"status": {"type": "integer"}, "message": text}, ["status", "message"])
    recording = {
        "active": {"type": "boolean"},
        "rows": whole,
        "fetched_rows": {**whole, "description": "so many of the first rows somebody has fetched; a new recording replaces all"},
        "max_rows": whole,
        "message": {**text, "description": "why it ended by itself; else empty"},
        "started_at": text,
    }
    stream = {
        "source": text,
        "title": text,
        "state": {"type": "string", "enum": ["idle", "connecting", "live", "lost"]},
        "message": {**text, "description": "why it is not live, or what of a file can't be read; else empty"},
        "model": text,
        "detector": text,
        "fps": {**number, "description": "frames analysed a second, of late"},
        "latency_ms": {"type": ["number", "null"], "description": "from capture to result; null where there was none of late"},
        **{name: whole for name in ("captured", "analysed", "skipped", "faces", "viewers", "listeners")},
        "reconnects": {**whole, "description": "times that it gave frames again after it was lost"},
        "blur": {"type": "boolean"},
        "recording": {"anyOf": [_object(recording, list(recording)), {"type": "null"}]},
    }
    seconds = {"type": "number", "minimum": 0, "description": "seconds from the start of the video"}
    lines = {
        "VideoHead": {
            "width": {**whole, "description": "pixels, which are square"},
            "height": {**whole, "description": "pixels"},
            "duration_s": {
                "type": ["number", "null"],
                "minimum": 0,
                "description": "when the video ends, in seconds, on the clock of time_s; null where it does not say",
            },
            "model": text,
            "labels": {"type": "array", "items": text},
            "limit_s": {**seconds, "description": "no more than these seconds of it are analysed"},
        },
        "VideoFrame": {
            "time_s": {**seconds, "description": f"{seconds['description']}; grows from line to line"},
            "faces": faces,
        },
        "VideoEnd": {
            "frames": {**whole, "description": "how many were analysed"},
            "analysed_s": {**seconds, "description": "time_s of the last of them"},
            "truncated": {"type": "boolean", "description": "it goes on after limit_s"},
            "missing": {
                "type": ["string", "null"],
                "description": "what can't be read of a damaged video, in words; null where nothing is known to be missing",
            },
        },
        "VideoError": {"message": {**text, "description": "why the answer ends before the video does"}},
    }
    kinds = {"VideoHead": "video", "VideoFrame": "frame", "VideoEnd": "end", "VideoError": "error"}
    result = {
        "time_s": {**number, "description": "seconds on the source's own clock, of which differences alone mean something"},
        "captured_at": {**number, "description": "seconds since 1970"},
        "width": {**whole, "description": "pixels"},
        "height": {**whole, "description": "pixels"},
        "model": text,
        "detector": text,
        "stages_ms": {
            "type": "object",
            "additionalProperties": number,
            "description": "milliseconds that each step took; total: from capture to result",
        },
        "faces": faces,
    }
    event = {
        "sequence": {**whole, "description": "grows from event to event; what is missing between two was not sent"},
        "result": {
            "anyOf": [_object(result, list(result)), {"type": "null"}],
            "description": "of one frame; null for a notice, such as that the source is lost",
        },
        "status": _ref("Stream"),
    }
    model = {
        "name": text,
        "labels": {"type": "array", "items": text},
        "colours": {"type": "array", "items": text},
        "input": {"type": "object"},
        "architecture": text,
        "members": {"type": "array", "items": text},
        "figures": {"type": "array", "items": {"type": "object"}},
        "default": {"type": "boolean"},
    }
    return {
        "Error": _object({"error": error}, ["error"]),
        "Face": _object(face, needed),
        "Picture": _object(picture, list(picture)),
        "Pictures": _object({"results": {"type": "array", "items": {"anyOf": [_ref("Picture"), _ref("Error")]}}}, ["results"]),
        "Stream": _object(stream, list(stream)),
        "StreamEvent": _object(event, list(event)),
        **{name: _object({"type": {"const": kinds[name]}, **line}, ["type", *line]) for name, line in lines.items()},
        "VideoLine": {"oneOf": [_ref(name) for name in lines]},
        "Models": _object(
            {
                "models": {"type": "array", "items": _object(model, list(model))},
                "detectors": {"type": "array", "items": text},
            },
            ["models", "detectors"],
        ),
        "Health": _object({"status": text}, ["status"]),
    }


def _operation(
    summary: str,
    parameters: list[dict[str, Any]],
    bodies: dict[str, Any] | None,
    answers: dict[str, Any],
    endless: bool = False,
) -> dict[str, Any]:
    statuses = {*_EVERYWHERE, *((400, 413, 415, 422) if bodies or parameters else ()), *((408, 507) if bodies else ()), 404}
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {**answers, **{str(status): _json(_ERRORS[status], _ref("Error")) for status in sorted(statuses)}},
    }
    if endless:
        operation["tags"] = ["endless"]
    if bodies:
        operation["requestBody"] = {"required": True, "content": bodies}
    return operation


def _query(name: str, schema: dict[str, Any], text: str = "", required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "schema": schema, **({"description": text} if text else {})}


def _object(properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"schema": schema}


def _json(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _answer(text: str, kind: str) -> dict[str, Any]:
    return {"description": text, "content": {kind: {"schema": {"type": "string"}}}}


def _items(text: str, kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """An answer that comes item by item. What OpenAPI 3.2 calls itemSchema has to have another name in 3.1."""
    return {"description": text, "content": {kind: {"schema": {"type": "string"}, "x-itemSchema": item}}}


def _event(data: dict[str, Any]) -> dict[str, Any]:
    """A server-sent event, as OpenAPI 3.2 describes it."""
    return _object({"id": _TEXT, "data": {**_TEXT, "contentMediaType": "application/json", "contentSchema": data}}, ["data"])
