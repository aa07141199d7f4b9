"""CORS: what a browser is told before and after a page of another origin sends its request."""

from __future__ import annotations

from serving.errors import Code, ServingError
from serving.rest.http_messages import HttpRequest, HttpResponse


def is_contract(request: HttpRequest) -> bool:
    """Whether a request is for one of TensorFlow Serving's paths; ours are not for pages of other origins."""
    return request.path[:4].lower() == "/v1/"


def preflight(request: HttpRequest) -> HttpResponse:
    """What a browser asks before a page of another origin may send its request; the answer is in `cors_headers`.

    Raises:
        ServingError: FAILED_PRECONDITION, it is no browser's: it has no Origin.
    """
    if not request.headers.get("origin"):
        raise ServingError(Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight")
    return HttpResponse(200)


def cors_headers(request: HttpRequest) -> tuple[tuple[str, str], ...]:
    """The headers that let every origin read an answer."""
    # TensorFlow Serving allows Content-Type alone. It knows no tokens; a page that has one must be let send it.
    asked = request.headers.get("access-control-request-headers", "").lower()
    allowed = "Content-Type, Authorization" if "authorization" in asked else "Content-Type"
    return (
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "POST, GET"),
        ("Access-Control-Allow-Headers", allowed),
    )
