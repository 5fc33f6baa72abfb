"""What the server can be told: one frozen dataclass, filled by the command line, by FER_KERAS_* variables, or by a test."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fer_keras.cli import words
from fer_keras.detectors import DETECTORS
from fer_keras.errors import ConfigError
from fer_keras.runtime import RUNTIMES

PREFIX = "FER_KERAS_"
#: A token shorter than this could be guessed.
MIN_TOKEN_CHARS = 16


@dataclass(frozen=True)
class ServerConfig:
    """Settings of the server. Raises ConfigError where one is impossible, or where a network would be let in without a token.

    sources: each "demo", a camera's number, a file, or a URL (rtsp, http). models: exported models, as paths or names in
    saved_models; none: the shipped default. detector: what finds faces. min_face_px: the smallest that it looks for in streams
    and webcams, which have to be quick; upload_min_face_px: in uploaded pictures and films of up
    to half of max_side_px, which may show a whole class; in larger ones faces are larger too.
    runtime: what runs the models: "auto", or one of fer_keras.runtime.RUNTIMES. host, port: where it listens. token: who has
    it is let in; needed where host is not loopback. blur: make faces in the stream and in snapshots unrecognisable, as far as the
    detector finds them, which then looks at every frame.

    client_timeout_s: how long a client may take for the line and headers of a request, and give or take nothing afterwards.
    min_kb_per_s: of a body and of an answer so many times 2**10 bytes a second have to move while the client is waited for.

    max_viewers: streams watched at once, and as many listeners to events. max_requests: analyses of uploads waiting or
    running at once. max_image_mb, max_video_mb: bytes of an upload, in 2**20. max_bodies_mb: of all requests together, as far as
    they are in memory, in 2**20; the largest alone is always let in. max_pixels: of an uploaded picture or of one frame of a
    video. max_video_s: how much of an uploaded video is analysed. max_faces: most faces told per picture.
    max_side_px: larger pictures are shrunk before faces are looked for. record_rows: a recording ends when it has so many.
    jpeg_quality: 1..100. picture_fps: most pictures a second that viewers get, on average; results are of every frame.
    sent_per_s: most pictures a second to all viewers of a camera together, while it gives more frames than can be analysed.
    idle_stop_s: how long after the last viewer has gone a source is kept open.
    """

    sources: tuple[str, ...] = ("demo",)
    models: tuple[str, ...] = ()
    detector: str = "mtcnn"
    min_face_px: int = 40
    upload_min_face_px: int = 20
    runtime: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    blur: bool = False
    client_timeout_s: float = 10
    min_kb_per_s: float = 2
    max_viewers: int = 32
    max_requests: int = 64
    max_image_mb: float = 12
    max_video_mb: float = 64
    max_bodies_mb: float = 256
    max_pixels: int = 25_000_000
    max_video_s: float = 120
    max_faces: int = 100
    max_side_px: int = 1280
    record_rows: int = 1_000_000
    jpeg_quality: int = 80
    picture_fps: float = 30
    sent_per_s: float = 300
    idle_stop_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("there is no source; expected demo, a camera's number, a file or a URL")
        for setting, choices in (("detector", DETECTORS), ("runtime", ("auto", *RUNTIMES))):
            if getattr(self, setting) not in choices:
                raise ConfigError(f"unknown {setting} {getattr(self, setting)!r}; choose from {', '.join(choices)}")
        smallest = dict.fromkeys(("min_face_px", "upload_min_face_px"), (10, 2000))
        limits = {**smallest, "port": (0, 65535), "jpeg_quality": (1, 100), "idle_stop_s": (0, 3600)}
        for setting in fields(self):
            if setting.type not in ("int", "float"):
                continue
            low, high = limits.get(setting.name, (1, 10**9))
            if not low <= getattr(self, setting.name) <= high:
                raise ConfigError(f"{setting.name} must be {low} to {high}, got {getattr(self, setting.name)}")
        if self.token is not None and (
            len(self.token) < MIN_TOKEN_CHARS or not self.token.isascii() or not self.token.isprintable()
        ):
            raise ConfigError(f"a token has {MIN_TOKEN_CHARS} or more plain characters; take this one: {_example_token()}")
        if self.token is not None and self.token != self.token.strip():  # HTTP takes them off the ends of a header
            raise ConfigError("the token begins or ends with a blank, which can't be sent; leave it out")
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"listening on {self.host or 'every address'} lets a network in, which needs a token; set --token or "
                f"{PREFIX}TOKEN, for example to {_example_token()}, or stay on 127.0.0.1"
            )

    @property
    def threads(self) -> int:
        """Threads that a server needs: one for each endless answer and each body that is received, and some for the others."""
        return 2 * self.max_viewers * max(1, len(self.sources)) + RECEIVED_AT_ONCE + 16

    @property
    def largest_body(self) -> int:
        """Bytes of the largest request body that any address takes, with room for what surrounds a file in a form."""
        return int(max(self.max_image_mb * BATCH_IMAGES, self.max_video_mb) * 2**20) + 2**16

    @property
    def bodies_bytes(self) -> int:
        """Bytes that the bodies of all requests may take in memory together; enough for the largest."""
        return max(int(self.max_bodies_mb * 2**20), self.largest_body)


#: Bodies that are received at once. Each takes a thread, however slowly it comes.
RECEIVED_AT_ONCE = 32
#: Pictures in one request to /api/predict/batch. Together they may be four times as large as one picture alone.
MAX_BATCH = 32
BATCH_IMAGES = 4


def config_from_environment(environment: Mapping[str, str] = os.environ, **given: Any) -> ServerConfig:
    """Settings from FER_KERAS_SOURCES, FER_KERAS_MODELS (both with commas), FER_KERAS_TOKEN, FER_KERAS_BLUR (1 or 0) and so on.

    given: settings that are known already and win over the variables. Raises ConfigError for a name or value that does
    not fit.
    """
    settings = {setting.name: setting for setting in fields(ServerConfig)}
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or not text:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in settings:
            choices = ", ".join(PREFIX + setting.upper() for setting in settings)
            raise ConfigError(f"unknown variable {variable}; the server knows {choices}")
        values[name] = _parsed(variable, text, str(settings[name].type))
    return ServerConfig(**{**values, **given})


def path_below(environment: Mapping[str, str] = os.environ) -> str:
    """The path below which the server answers, such as "/fer", from SCRIPT_NAME as for gunicorn; "" where it has none.

    Raises ConfigError where it is no such path.
    """
    path = environment.get("SCRIPT_NAME", "")
    if not re.fullmatch(r"(/[\w.~!$&'()*+,;=:@-]+)*", path, re.ASCII):
        raise ConfigError(f"SCRIPT_NAME must be a path that begins with / and does not end with it, such as /fer, got {path!r}")
    return path


def _parsed(variable: str, text: str, kind: str) -> Any:
    try:
        if kind == "bool":
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.strip().lower()]
        if kind.startswith("tuple"):
            return tuple(words(text))
        return {"int": int, "float": float}.get(kind, str)(text)
    except (ValueError, KeyError):
        expected = {"bool": "1 or 0", "int": "a whole number", "float": "a number"}[kind]
        raise ConfigError(f"{variable} must be {expected}, got {text!r}") from None


def is_loopback(host: str) -> bool:
    """Whether an address or host name is this machine alone: 127.0.0.0/8, ::1 or localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _example_token() -> str:
    return secrets.token_hex(24)  # never begins with -, which would be an option
