"""Who is let in, and what a browser may do with the answers.

Without a token only this machine is answered, and only under its own names: a page elsewhere that has its name point here (DNS
rebinding) asks under that name. With a token, whoever has it is answered: as `Authorization: Bearer`, or as a cookie that
`?token=` or the login page sets. Requests that change something, and all that a page of another site causes, are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from serving.settings import is_loopback
from serving.uploads import RequestError

if TYPE_CHECKING:
    from flask import Flask, Request, Response

#: Asked by load balancers and the like, who have no token; they tell nothing but "yes".
OPEN_ENDPOINTS = ("api.healthz", "api.readyz", "pages.login", "pages.give_token", "static")
#: Nothing but our own files, and pictures and videos that the visitor chose. Scripts and styles stand in files.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with none at all, browsers send `Origin: null` with our own forms
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}


def cookie_value(token: str) -> str:
    """What the cookie holds: made from the token, which can't be made from it."""
    return hmac.new(token.encode(), b"fer_keras cookie 1", hashlib.sha256).hexdigest()


def cookie_name(token: str) -> str:
    """What the cookie is called. Ports share their cookies: servers on one host, each with its own token, need a name each.

    The few digits tell no more of the token than the cookie's value does.
    """
    return "fer_keras_" + hmac.new(token.encode(), b"fer_keras cookie name 1", hashlib.sha256).hexdigest()[:8]


def token_fits(given: str, token: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def has_token(request: Request, token: str) -> bool:
    """Whether a request carries the token, in its header or as the cookie."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and token_fits(given.strip(), token):
        return True
    return token_fits(request.cookies.get(cookie_name(token), ""), cookie_value(token))


def set_cookie(response: Response, request: Request, token: str) -> None:
    """Let this browser in from now on. Lax: a link with the token, clicked in a chat, must work."""
    response.set_cookie(
        cookie_name(token),
        cookie_value(token),
        max_age=30 * 86400,
        httponly=True,
        samesite="Lax",
        secure=request.is_secure,
        path="/",
    )


def is_own_path(address: str) -> bool:
    """Whether an address leads to this server from any of its pages: a path alone.

    Browsers take "//host", "/\\host" and "/<tab>/host" for addresses of other hosts. What is left are characters that stand in
    an encoded path.
    """
    return re.fullmatch(r"/(?!/)[\w.~!$&'()*+,;=:@%/?-]*", address, re.ASCII) is not None


def check_request(request: Request, token: str | None) -> None:
    """Raises RequestError where a request must not be answered: 401, 403, or 421 for a host name that is not ours."""
    if token is None:
        if not is_loopback(urlsplit(f"//{request.host}").hostname or "") or not is_loopback(request.remote_addr or "127.0.0.1"):
            raise RequestError(421, "without a token this server answers its own machine alone, as localhost or 127.0.0.1")
    elif request.endpoint not in OPEN_ENDPOINTS and not has_token(request, token):
        raise RequestError(401, "this server wants its token: Authorization: Bearer TOKEN, or open its page with ?token=TOKEN")
    _check_origin(request)


def _check_origin(request: Request) -> None:
    """Refuse what a page of another site causes, except following a link to a page here."""
    changing = request.method not in ("GET", "HEAD", "OPTIONS")
    origin = request.headers.get("Origin")
    if origin is not None and (changing or origin != "null") and _host_of(origin) != request.host:
        raise RequestError(
            403,
            f"this request was caused by a page of another site ({_host_of(origin) or origin}, and {request.host} was asked); "
            "where both are this server, the proxy in between must pass the header Host on",
        )
    site = request.headers.get("Sec-Fetch-Site", "none")
    navigation = request.headers.get("Sec-Fetch-Mode") == "navigate" and not changing
    if site not in ("same-origin", "none") and not navigation:
        raise RequestError(403, "this request was caused by a page of another site")


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # not an address at all, as "http://["
        return None


def protect(app: Flask) -> None:
    """Put the headers on every answer."""

    @app.after_request
    def add_headers(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        if "Cache-Control" not in response.headers:
            response.headers["Cache-Control"] = "no-store"
        return response
