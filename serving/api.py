"""The HTTP API: pictures in, JSON out; the stream; health and metrics."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from flask import Blueprint, Flask, Request, Response, current_app, g, jsonify, request
from werkzeug.exceptions import HTTPException

from fer_keras.detectors import DETECTORS
from fer_keras.errors import DataError, FerError
from serving import security, uploads
from serving.drawing import label_colour
from serving.openapi import describe
from serving.reception import FORM_PART_BYTES
from serving.settings import BATCH_IMAGES, MAX_BATCH
from serving.stream import Stream, TooManyError, face_json
from serving.uploads import RequestError

if TYPE_CHECKING:
    import numpy as np
    from werkzeug.datastructures import FileStorage

    from serving.engine import Engine

blueprint = Blueprint("api", __name__)

FACES = ("auto", "full")
#: What every analysis of pictures can be asked.
OPTIONS = ("faces", "model", "detector")
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
_MB = 2**20
#: Frames of an uploaded video that are analysed per second of it.
VIDEO_RATE_HZ = 15.0
#: Events a second for each listener, unless it asks for more or less.
EVENTS_HZ = 10.0
#: What a full disk, a used up quota and a limited file say.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: An endless answer looks this often whether the server is closing.
_PATIENCE_S = 0.5


class CountedRequest(Request):
    """Flask's request, of whose form each file may stay in memory as far as FORM_PART_BYTES go."""

    def _get_file_stream(self, *args: object, **kwargs: object) -> IO[bytes]:
        if g.get("body") is not None:
            g.body.kept_bytes += FORM_PART_BYTES
        return super()._get_file_stream(*args, **kwargs)


def engine() -> Engine:
    """The engine of the server that answers this request."""
    return current_app.extensions["fer_keras"]


def install(app: Flask) -> None:
    """Add the API to an application, with what holds for every request: checks before, JSON errors and counts after."""
    app.request_class = CountedRequest
    app.register_blueprint(blueprint)

    @app.before_request
    def check() -> None:
        config = engine().config
        limits_mb = {
            "api.predict": config.max_image_mb * 4 / 3,  # base64
            "api.predict_batch": config.max_image_mb * BATCH_IMAGES * 4 / 3,
            "api.webcam": config.max_image_mb,
            "api.video": config.max_video_mb,
        }
        request.max_content_length = int(limits_mb.get(request.endpoint or "", 0) * _MB) + 2**16
        if engine().closing.is_set():
            raise RequestError(503, "the server is stopping")
        security.check_request(request, config.token)
        engine().start()
        g.body = engine().reception.body_of(request)

    @app.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "none"
        # A visitor may make up methods, and each label is kept for ever.
        method = request.method if request.method in METHODS else "other"
        engine().metrics.requests.labels(route, method, str(response.status_code)).inc()
        return response

    @app.teardown_request
    def over(error: BaseException | None) -> None:
        if g.get("body") is not None:
            g.body.close()

    app.register_error_handler(Exception, answer_error)


def answer_error(error: Exception) -> Response:
    """Any error as JSON: {"error": {"status": 413, "message": "..."}}."""
    if isinstance(error, RequestError):
        status, message = error.status, str(error)
    elif isinstance(error, TooManyError):
        status, message = 503, str(error)
    elif isinstance(error, HTTPException) and error.code:
        status, message = error.code, error.description or error.name
        if status == 413:
            message = _too_large()
    elif isinstance(error, DataError):
        status, message = 422, str(error)
    elif isinstance(error, OSError) and error.errno in _NO_ROOM:
        status, message = 507, "there is no room left on the server's disk for this; try again later"
        current_app.logger.warning("%s %s: %s", request.method, request.path, error)
    else:
        current_app.logger.exception("%s %s failed", request.method, request.path)
        engine().metrics.errors.labels("request").inc()
        status, message = 500, str(error) if isinstance(error, FerError) else "the server failed; its log says why"
    response = jsonify({"error": {"status": status, "message": message}})
    response.status_code = status
    if status == 503:
        response.headers["Retry-After"] = "5"
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPException) and status == 405:
        response.headers["Allow"] = ", ".join(getattr(error, "valid_methods", None) or ())
    return response


def _too_large() -> str:
    most = request.max_content_length
    if request.content_length is None or most is None or request.content_length > most:
        return f"the request is larger than {most} bytes, which is the most allowed here"
    return (
        f"a form has at most {request.max_form_parts} parts, and no text longer than {request.max_form_memory_size} bytes; "
        "pictures and videos are sent as files"
    )


# --- what is asked ----------------------------------------------------------------------------------------------------


def _choice(values: Mapping[str, Any], name: str, choices: Sequence[str], default: str) -> str:
    value = values.get(name, default)
    if value not in choices:
        raise RequestError(422, f"{name} is one of {', '.join(choices)}; got {repr(value)[:80]}")
    return value


def _number(name: str, default: float, low: float, high: float, whole: bool = False) -> float:
    text = request.args.get(name)
    if text is None:
        return default
    if re.fullmatch(r"\d{1,9}" if whole else r"\d{1,9}(\.\d{1,9})?", text) and low <= float(text) <= high:
        return float(text)
    raise RequestError(422, f"{name} is a {'whole ' if whole else ''}number from {low:g} to {high:g}; got {text!r}")


def _stream(values: Mapping[str, Any] | None = None) -> Stream:
    """The stream that is asked for; the first one where none is named."""
    streams = engine().streams
    key = (request.args if values is None else values).get("source", next(iter(streams)))
    if not isinstance(key, str):
        raise RequestError(422, f"source is text, one of {', '.join(streams)}; got {repr(key)[:80]}")
    if key not in streams:
        raise RequestError(404, f"there is no source {key[:80]!r}; there is {', '.join(streams)}")
    return streams[key]


def _json_body(allowed: Sequence[str]) -> dict[str, Any]:
    if request.mimetype != "application/json":
        raise RequestError(415, f"expected application/json, got {request.mimetype[:80] or 'no content type'}")
    try:
        body = engine().reception.json_of(request)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {str(error)[:200]}") from error
    if not isinstance(body, dict):
        raise RequestError(422, "the body is a JSON object; got something else")
    _check_names(body, allowed)
    return body


def _check_names(given: Iterable[str], allowed: Sequence[str]) -> None:
    unknown = sorted(set(given) - set(allowed))
    if unknown:
        raise RequestError(422, f"unknown entry {unknown[0][:80]!r}; expected {', '.join(allowed)}")


class _Asked:
    """What every analysis takes: how faces are found, which model and detector; from the body, else from the query.

    query: names that the query may have. A misspelt one would change nothing, and nobody would know.
    """

    def __init__(self, body: Mapping[str, Any], query: Sequence[str] = OPTIONS) -> None:
        _check_names(request.args, query)

        def chosen(name: str, choices: Sequence[str], default: str) -> str:
            return _choice(body, name, choices, _choice(request.args, name, choices, default))

        self.faces = chosen("faces", FACES, "auto")
        self.model = chosen("model", engine().recognizers.names, engine().default_model)
        self.detector = chosen("detector", DETECTORS, engine().config.detector)

    def find(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """The faces in some pictures, as the answer for each."""
        found = engine().find_faces(images, whole=self.faces == "full", model=self.model, detector=self.detector)
        return [
            {"width": image.shape[1], "height": image.shape[0], "model": self.model, "faces": faces}
            for image, faces in zip(images, found, strict=True)
        ]


def _sent_form(field: str, options: Sequence[str] = OPTIONS) -> tuple[_Asked, list[FileStorage]]:
    """What is asked in a form, and its files; their names and declared types mean nothing here."""
    if field in request.form:
        raise RequestError(422, f"{field} came as text; send it as a file, with a file name")
    _check_names(request.form, options)
    _check_names(request.files, [field])
    return _Asked(request.form, options), request.files.getlist(field)


def _decoded(data: bytes) -> np.ndarray:
    config = engine().config
    start = time.perf_counter()
    image = uploads.decode_image(data, int(config.max_image_mb * _MB), config.max_pixels)
    engine().metrics.observe({"decode": time.perf_counter() - start})
    return image


def _sent_images(field: str, many: bool) -> tuple[_Asked, list[Callable[[], bytes]]]:
    """What is asked, and for each picture a function that gives its bytes; they are not all held at once."""
    limit = int(engine().config.max_image_mb * _MB)
    if request.mimetype in uploads.IMAGE_TYPES and not many:
        asked = _Asked({})
        data = request.get_data(cache=False)  # read before a turn is taken: a slow sender must not keep others from theirs
        return asked, [lambda: data]
    if request.mimetype == "multipart/form-data":
        asked, files = _sent_form(field)
        return asked, [lambda file=file: file.stream.read(limit + 1) for file in files]  # type: ignore[misc]
    if request.mimetype != "application/json":
        kinds = "multipart/form-data, application/json" + ("" if many else " or a picture's own type (image/jpeg)")
        raise RequestError(415, f"expected {kinds}; got {request.mimetype[:80] or 'no content type'}")
    body = _json_body([field, "faces", "model", "detector"])
    texts = body.pop(field, [] if many else None)
    asked = _Asked(body)
    texts = texts if many else [texts]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError(422, f"{field} is {'a list of pictures' if many else 'a picture'} in base64")
    return asked, [lambda text=text: uploads.decode_base64(text, limit) for text in texts]  # type: ignore[misc]


# --- pictures ---------------------------------------------------------------------------------------------------------


@blueprint.post("/api/predict")
def predict() -> Response:
    """The faces of one picture."""
    asked, pictures = _sent_images("image", many=False)
    if len(pictures) != 1:
        raise RequestError(422, f"expected one picture in the field image, got {len(pictures)}")
    with engine().turn():
        (answer,) = asked.find([_decoded(pictures[0]())])
    return jsonify(answer)


@blueprint.post("/api/predict/batch")
def predict_batch() -> Response:
    """The faces of several pictures; one that can't be read has an error in its place."""
    asked, pictures = _sent_images("images", many=True)
    if not 1 <= len(pictures) <= MAX_BATCH:
        raise RequestError(422, f"expected 1 to {MAX_BATCH} pictures in the field images, got {len(pictures)}")
    results: list[dict[str, Any]] = []
    for get in pictures:
        with engine().turn():
            try:
                results += asked.find([_decoded(get())])
            except RequestError as error:
                results.append({"error": {"status": error.status, "message": str(error)}})
    return jsonify({"results": results})


@blueprint.post("/api/webcam")
def webcam() -> Response:
    """The next picture of a visitor's own camera: faces with ids, smoothed over time."""
    session = request.args.get("session", "")
    if not re.fullmatch(r"[0-9a-f]{16,64}", session):
        raise RequestError(422, "session is 16 to 64 hexadecimal digits, made up once by who sends the pictures")
    if request.mimetype not in uploads.IMAGE_TYPES:
        raise RequestError(415, f"expected {', '.join(uploads.IMAGE_TYPES)}; got {request.mimetype[:80] or 'no content type'}")
    asked = _Asked({}, ("session", "model", "detector"))
    data = request.get_data(cache=False)  # as above, before a turn is taken
    with engine().turn():
        image = _decoded(data)
        width, height = image.shape[1], image.shape[0]
        labels, faces = engine().track_faces(session, image, model=asked.model, detector=asked.detector)
    scale = max(1.0, max(width, height) / engine().config.max_side_px)
    found = [face_json(face, labels) for face in faces]
    for face in found:
        face["box"] = [round(edge * scale, 1) for edge in face["box"]]
    return jsonify({"width": width, "height": height, "model": asked.model, "faces": found})


@blueprint.post("/api/video")
def video() -> Response:
    """The faces of a video, line by line of JSON while it is analysed."""
    if request.mimetype != "multipart/form-data":
        raise RequestError(415, f"expected multipart/form-data, got {request.mimetype[:80] or 'no content type'}")
    if "faces" in request.args:
        raise RequestError(422, "in videos faces are always looked for; faces is for pictures")
    asked, files = _sent_form("video", ("model", "detector"))
    if len(files) != 1:
        raise RequestError(422, f"expected one video in the field video, got {len(files)}")
    config = engine().config
    # All that can be refused is refused before the answer begins; after that, an error can only be its last line.
    with contextlib.ExitStack() as stack:
        analyzer = stack.enter_context(engine().video_analyzer(asked.model, asked.detector))
        path = stack.enter_context(uploads.video_on_disk(files[0].stream, int(config.max_video_mb * _MB)))
        frames = uploads.read_video(path, config.max_pixels, config.max_video_s, VIDEO_RATE_HZ)
        stack.callback(frames.close)
        first = next(frames, None)
        if first is None:
            raise RequestError(422, "the video has no frame that can be read; is the file complete?")
        held = stack.pop_all()
    lines = _video_lines(engine(), analyzer, asked.model, first, frames)
    response = Response(lines, mimetype="application/x-ndjson")
    response.call_on_close(held.close)
    return response


def _video_lines(
    running: Engine,
    analyzer: Any,
    model: str,
    first: uploads.VideoFrame,
    frames: Generator[uploads.VideoFrame, None, uploads.VideoEnd],
) -> Iterator[str]:
    from serving.sources import shrunk

    def line(kind: str, **values: Any) -> str:
        return json.dumps({"type": kind, **values}, separators=(",", ":")) + "\n"

    height, width = first[2].shape[:2]
    labels, limit_s = analyzer.recognizer.labels, running.config.max_video_s
    duration_s = None if first[1] is None else round(first[1], 3)
    yield line("video", width=width, height=height, duration_s=duration_s, model=model, labels=labels, limit_s=limit_s)
    count, time_s, end = 0, 0.0, None
    coming = _chain(first, frames)
    try:
        while True:
            try:
                time_s, _, image = next(coming)
            except StopIteration as stop:
                end = stop.value
                break
            if running.closing.is_set():
                yield line("error", message="the server is stopping")
                return
            small = shrunk(image, running.config.max_side_px)
            scale = image.shape[1] / small.shape[1]
            with running.turn():
                faces = [face_json(face, labels) for face in analyzer.analyze(small, time_s)[: running.config.max_faces]]
            for face in faces:
                face["box"] = [round(edge * scale, 1) for edge in face["box"]]
            running.metrics.observe(analyzer.last_stage_s)
            running.metrics.faces.labels("video").inc(len(faces))
            count += 1
            yield line("frame", time_s=round(time_s, 3), faces=faces)
    except FerError as error:
        yield line("error", message=str(error))
        return
    yield line("end", frames=count, analysed_s=round(time_s, 3), truncated=end.truncated, missing=end.missing)


def _chain(first: Any, rest: Generator) -> Generator:
    yield first
    return (yield from rest)


# --- the stream -------------------------------------------------------------------------------------------------------


@blueprint.get("/api/models")
def models() -> Response:
    """The models that can be chosen."""
    running = engine()
    found = [
        {
            "name": name,
            "labels": metadata["labels"],
            "colours": [label_colour(index) for index in range(len(metadata["labels"]))],
            "input": metadata["input"],
            "architecture": metadata["spec"]["name"],
            "members": [member.get("name", "") for member in metadata.get("members") or []],
            "figures": metadata["figures"],
            "default": name == running.default_model,
        }
        for name, metadata in running.metadata.items()
    ]
    return jsonify({"models": found, "detectors": list(DETECTORS)})


@blueprint.get("/api/stream")
def streams() -> Response:
    """The state of every source."""
    return jsonify({"sources": [stream.status() for stream in engine().streams.values()]})


@blueprint.get("/api/stream/video")
def stream_video() -> Response:
    """The stream as MJPEG: multipart/x-mixed-replace, one JPEG a part; the `limit` next pictures, or without end."""
    stream, running = _stream(), engine()
    limit = _number("limit", 0, 1, 10**6, whole=True)
    mimetype = "multipart/x-mixed-replace; boundary=frame"
    if request.method == "HEAD":
        return Response(content_type=mimetype)
    with contextlib.ExitStack() as stack:
        following = stack.enter_context(stream.watch("picture"))
        held = stack.pop_all()

    def parts() -> Iterator[bytes]:
        # The boundary follows a picture at once: browsers show it only when they see where it ends.
        yield b"--frame\r\n"
        sent = 0
        while not running.closing.is_set() and (not limit or sent < limit):
            update = following(_PATIENCE_S)
            if update is None or update.jpeg is None:
                continue
            sent += 1
            yield update.part + (b"--\r\n" if sent == limit else b"\r\n")

    return _endless(parts(), mimetype, held)


@blueprint.get("/api/stream/events")
def stream_events() -> Response:
    """Results as server-sent events, at most `max_hz` a second; the next `limit` of them, or without end."""
    stream, running = _stream(), engine()
    limit = _number("limit", 0, 1, 10**6, whole=True)
    pause_s = 1 / _number("max_hz", EVENTS_HZ, 0.1, 100)
    if request.method == "HEAD":
        return Response(content_type="text/event-stream; charset=utf-8")
    with contextlib.ExitStack() as stack:
        following = stack.enter_context(stream.watch("events"))
        held = stack.pop_all()

    def events() -> Iterator[bytes]:
        yield b"retry: 2000\n\n"
        sent = 0
        while not running.closing.is_set() and (not limit or sent < limit):
            update = following(_PATIENCE_S)
            if update is None:
                yield b": nothing new\n\n"
                continue
            sent += 1
            yield f"id: {update.sequence}\ndata: {update.event}\n\n".encode()
            running.closing.wait(pause_s)

    return _endless(events(), "text/event-stream; charset=utf-8", held)


def _endless(parts: Iterator[bytes], content_type: str, held: contextlib.ExitStack) -> Response:
    response = Response(parts, content_type=content_type)
    response.call_on_close(held.close)
    response.headers["Cache-Control"] = "no-store, no-transform"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold frames back
    return response


@blueprint.get("/api/stream/snapshot.jpg")
def snapshot() -> Response:
    """One picture with its boxes."""
    stream = _stream()
    jpeg = stream.snapshot()
    if jpeg is None:
        raise RequestError(503, "the source gave no picture in time; try again")
    name = f"{stream.key}-{time.strftime('%Y%m%d-%H%M%S')}.jpg"
    return Response(jpeg, mimetype="image/jpeg", headers={"Content-Disposition": f'inline; filename="{name}"'})


@blueprint.post("/api/stream/settings")
def settings() -> Response:
    """Switch model or detector of a source, for all its viewers."""
    body = _json_body(["source", "model", "detector"])
    stream = _stream(body)
    choices = {"model": engine().recognizers.names, "detector": DETECTORS}
    stream.choose(**{name: _choice(body, name, names, "") for name, names in choices.items() if name in body})
    return jsonify(stream.status())


@blueprint.post("/api/recording")
def recording() -> Response:
    """Start or stop writing down results; never pictures."""
    body = _json_body(["source", "recording"])
    stream = _stream(body)
    on = body.get("recording")
    if not isinstance(on, bool):
        raise RequestError(422, "recording is true or false")
    stream.record(on)
    return jsonify(stream.status())


@blueprint.get("/api/results.csv")
def results() -> Response:
    """The recording that runs, or the last one."""
    stream = _stream()
    if stream.recording is None:
        raise RequestError(404, f"nothing was recorded of {stream.key}; start with POST /api/recording")
    name = f"{stream.key}-{stream.recording.started_at:%Y%m%d-%H%M%S}.csv"
    return Response(
        stream.recording.chunks(), mimetype="text/csv", headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


# --- for machines -----------------------------------------------------------------------------------------------------


@blueprint.get("/healthz")
def healthz() -> Response:
    """Whether the process answers."""
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """Whether the model is loaded, so that answers come at once."""
    running = engine()
    if running.ready.is_set():
        return jsonify({"status": "ready"})
    raise RequestError(503, running.failure or "the model is being loaded")


@blueprint.get("/metrics")
def metrics() -> Response:
    """For Prometheus."""
    text, content_type = engine().metrics.exposition()
    return Response(text, content_type=content_type)


@blueprint.get("/api/openapi.json")
def openapi() -> Response:
    """This API, described."""
    running = engine()
    return jsonify(
        describe(
            models=running.recognizers.names,
            sources=tuple(running.streams),
            detectors=DETECTORS,
            max_batch=MAX_BATCH,
            token=running.config.token is not None,
            root=request.script_root,
        )
    )
