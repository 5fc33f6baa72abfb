"""Stream faces and what a model says of them into the browser, and answer an API.

python -m serving.app                                      # the demo: drawn faces, the shipped model
python -m serving.app --source 0 --source lobby.mp4 --model ferplus-cnn --model my-ensemble
python -m serving.app --source rtsp://camera/1 --host 0.0.0.0 --token "$(openssl rand -hex 24)"
flask --app serving.app run                                # settings from FER_KERAS_SOURCES and so on
gunicorn -c python:serving.gunicorn_conf 'serving.app:create_app()'

A file plays at its own speed and starts over at its end. Nothing is captured while nobody watches or records.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fer_keras import cli
from fer_keras.detectors import DETECTORS
from fer_keras.runtime import RUNTIMES
from serving.settings import PREFIX, ServerConfig, config_from_environment
from serving.videos import quiet_decoder

if TYPE_CHECKING:
    from flask import Flask

    from serving.sources import Source


def create_app(config: ServerConfig | None = None, *, sources: Sequence[Source] | None = None) -> Flask:
    """The WSGI application.

    config: None takes the settings from the environment. sources: instead of those that the settings name. Nothing runs
    before the first request, or `app.extensions["fer_keras"].start()`. Raises FerError where a setting, model or file does
    not fit.
    """
    quiet_decoder()
    from flask import Flask

    from serving import api, pages, security
    from serving.engine import Engine

    config = config or config_from_environment()
    app = Flask(__name__)
    engine = app.extensions["fer_keras"] = Engine(config, sources)
    if os.environ.get("FLASK_RUN_FROM_CLI") == "true":  # the other servers end their process themselves
        atexit.register(engine.leave)
    # The largest body; each address has its own, lower limit. A form is read through a buffer of half a megabyte at most.
    app.config.update(MAX_CONTENT_LENGTH=config.largest_body, MAX_FORM_MEMORY_SIZE=2**19, MAX_FORM_PARTS=64)
    app.json.sort_keys = False
    app.register_blueprint(pages.pages)  # first: a token in the address is taken before it is asked for
    api.install(app)
    security.protect(app)
    return app


def build_parser() -> cli.CommandParser:
    """The command line of `python -m serving.app`."""
    defaults = ServerConfig()
    parser = cli.CommandParser(
        prog="python -m serving.app",
        description=__doc__,
        epilog=f"Settings may stand in the environment too: {PREFIX}SOURCES and {PREFIX}MODELS (several with commas), "
        f"{PREFIX}TOKEN, {PREFIX}MAX_IMAGE_MB and so on; serving/settings.py lists them.",
    )
    add = parser.add_argument
    add("--source", action="append", dest="sources", metavar="SOURCE", help="demo, a camera's number, a file, or a URL "
        "(repeatable; default demo)")  # fmt: skip
    add("--model", action="append", dest="models", metavar="MODEL", help="an exported model or ensemble, a folder or a name in "
        "saved_models (repeatable; the page switches between them; default: the shipped one)")  # fmt: skip
    add("--detector", choices=DETECTORS, help=f"what finds faces (default {defaults.detector})")
    add("--min-face", type=cli.positive_int, dest="min_face_px", metavar="PX",
        help=f"smallest face looked for in streams and webcams (default {defaults.min_face_px}; in uploads "
        f"{defaults.upload_min_face_px}, or {PREFIX}UPLOAD_MIN_FACE_PX)")  # fmt: skip
    add("--runtime", choices=("auto", *RUNTIMES), help=f"what runs the models (default {defaults.runtime})")
    add("--host", help=f"address to listen on (default {defaults.host}; another than this machine's own needs a token)")
    add("--port", type=int, help=f"port to listen on, 0 for a free one (default {defaults.port})")
    add("--token", help=f"let in only who has it; {PREFIX}TOKEN keeps it out of the list of processes")
    add("--blur", action="store_true", default=None, help="make all faces found in stream and snapshots unrecognisable")
    add("--max-viewers", type=cli.positive_int, metavar="N", help=f"most viewers of a stream (default {defaults.max_viewers})")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server until SIGTERM or Ctrl-C; returns the exit code."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    given = {name: value for name, value in vars(args).items() if name != "debug" and value is not None}
    given |= {name: tuple(given[name]) for name in ("sources", "models") if name in given}
    config = config_from_environment(**given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    from serving.server import serve

    return serve(create_app(config), config)


if __name__ == "__main__":
    raise SystemExit(main())
