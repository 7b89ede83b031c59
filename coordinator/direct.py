"""HTTP straight to whoever is asked: what the environment says of proxies (HTTP_PROXY) is for the world outside."""

from __future__ import annotations

import ssl
import urllib.request
from http.client import HTTPResponse


def opened(url: str, timeout: float, context: ssl.SSLContext | None = None) -> HTTPResponse:
    """Its answer, to be read and closed. timeout: seconds. context: for https. Raises OSError (URLError, HTTPError)."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    answer: HTTPResponse = urllib.request.build_opener(*handlers).open(url, timeout=timeout)
    return answer
