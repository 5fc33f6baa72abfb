"""The pages: the stream, the models, and the one that asks for the token."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, abort, current_app, redirect, render_template, request, send_file, url_for
from werkzeug.exceptions import NotFound

from fer_keras.detectors import DETECTORS
from serving import markdown, security
from serving.api import answer_error, engine
from serving.uploads import RequestError

pages = Blueprint("pages", __name__)

#: What may lie beside a model and be shown with it. No SVG: it may hold scripts.
_IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
#: Reports of `training.evaluate` and `training.bias` are one HTML file each. They are shown without any right.
_REPORTS = {".html": "text/html; charset=utf-8"}
_REPORT_CSP = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"


@pages.before_app_request
def enter() -> Any:
    """`?token=` at a page lets this browser in, and leaves the address bar."""
    token = engine().config.token
    given = request.args.get("token")
    if token and given is not None and request.method == "GET" and request.blueprint == "pages":
        if not security.token_fits(given, token):
            return _login_page(_address_asked(), "That is not the token.")
        response = redirect(_address_asked())
        security.set_cookie(response, request, token)
        return response
    return None


@pages.get("/")
def live() -> str:
    """The stream, the visitor's own webcam, and uploads."""
    running = engine()
    limits = {
        "imageMb": running.config.max_image_mb,
        "imagePixels": running.config.max_pixels,
        "videoMb": running.config.max_video_mb,
        "videoS": running.config.max_video_s,
    }
    return render_template(
        "live.html", models=list(running.metadata), streams=running.streams, detectors=DETECTORS, limits=limits,
        blur=running.config.blur,
        detector=running.config.detector,
    )  # fmt: skip


@pages.get("/models")
def models() -> str:
    """All models."""
    return render_template("models.html", models=engine().metadata, title="Models")


@pages.get("/models/<name>")
def model(name: str) -> str:
    """One model: what it is, how good it is, and for whom."""
    path, metadata = _model(name)
    card = path / "README.md"
    files = [file for file in sorted(path.iterdir()) if file.is_file() and _showable(file)]
    addresses = {file.name: url_for("pages.model_file", name=name, file=file.name) for file in files}
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return render_template(
        "model.html",
        title=name,
        name=name,
        metadata=metadata,
        card=markdown.render(text, files=addresses),
        addresses=addresses,
        images=[file.name for file in files if file.suffix.lower() in _IMAGES],
        reports=[file.name for file in files if file.suffix.lower() in _REPORTS],
        confusion=_confusion(path),
    )


@pages.get("/models/<name>/<file>")
def model_file(name: str, file: str) -> Response:
    """A picture or report that lies beside a model."""
    path, _ = _model(name)
    # Looked up among those that are there: a name made up by a visitor may be no name for a file.
    wanted = {each.name: each for each in path.iterdir()}.get(file)
    if wanted is None or not re.fullmatch(r"[\w-][\w.-]*", file) or not wanted.is_file() or not _showable(wanted):
        abort(404)
    kind = {**_IMAGES, **_REPORTS}[wanted.suffix.lower()]
    response = send_file(wanted.resolve(), mimetype=kind)
    if wanted.suffix.lower() in _REPORTS:
        response.headers["Content-Security-Policy"] = _REPORT_CSP
    return response


@pages.get("/login")
def login() -> Any:
    """Asks for the token."""
    token, onward = engine().config.token, url_for("pages.live")
    return redirect(onward) if token is None or security.has_token(request, token) else _login_page(onward)


@pages.post("/login")
def give_token() -> Any:
    """Lets a browser in that gives the token, to the page that it asked for."""
    token = engine().config.token
    onward = request.form.get("next", "")
    if not security.is_own_path(onward):  # anybody can lay out a form, which must not lead elsewhere from here
        onward = url_for("pages.live")
    if token is None or not security.token_fits(request.form.get("token", ""), token):
        return _login_page(onward, "That is not the token.")
    response = redirect(onward)
    security.set_cookie(response, request, token)
    return response


@pages.app_errorhandler(RequestError)
def refused(error: RequestError) -> Any:
    """Whoever comes with a browser and without the token is asked for it; all others are told in JSON."""
    asks_for_page = request.method == "GET" and request.blueprint == "pages"
    return _login_page(_address_asked()) if error.status == 401 and asks_for_page else answer_error(error)


@pages.app_errorhandler(NotFound)
def missing(error: NotFound) -> Any:
    """A page for people, JSON for programs."""
    # Chrome takes signed exchanges as gladly as pages, so what it likes best is neither of the two.
    wants_page = request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
    if request.method == "GET" and wants_page and not request.path.startswith("/api/"):
        return render_template("message.html", title="Not found", text="There is no such page."), 404
    return answer_error(error)


def _address_asked() -> str:
    """The address of the page that is asked for, without a token."""
    kept = urlencode([(name, value) for name, value in request.args.items(multi=True) if name != "token"])
    address = url_for(request.endpoint, **(request.view_args or {}))
    return f"{address}?{kept}" if kept else address


def _login_page(onward: str, message: str = "") -> Any:
    """Asks for the token. onward: where to then."""
    page = render_template("login.html", title="Token", message=message, onward=onward)
    response = current_app.make_response((page, 401))
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _model(name: str) -> tuple[Path, dict[str, Any]]:
    running = engine()
    if name not in running.paths:
        abort(404)
    return running.paths[name], running.metadata[name]


def _showable(file: Path) -> bool:
    """Whether a file may be shown. A link could lead out of the model's folder."""
    return file.suffix.lower() in {**_IMAGES, **_REPORTS} and not file.is_symlink()


def _confusion(path: Path) -> dict[str, Any] | None:
    """The table confusion.csv that `training.evaluate` writes: rows are the true labels, columns the predicted ones.

    None where there is none, or it is damaged.
    """
    file = path / "confusion.csv"
    if not file.is_file() or file.is_symlink():
        return None
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            head, *rows = csv.reader(lines)
        counts = [[int(float(cell)) for cell in row[1:]] for row in rows]
    except (ValueError, OverflowError, csv.Error):
        return None
    if not head or any(len(row) != len(head) for row in rows):
        return None
    cells = [[(count, count / max(1, sum(row))) for count in row] for row in counts]
    return {"predicted": head[1:], "rows": list(zip([row[0] for row in rows], cells, strict=True))}
