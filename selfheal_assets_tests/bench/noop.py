"""The limit of `make bench-serving`: an ASGI application that reads a request, does nothing, and answers.

It runs under the same server as the service (uvicorn, one worker) and gets the same bodies; its answer is as long
as a prediction's. What it reaches is what server, sockets and load generator leave to any application.
"""

from typing import Any

ANSWER = b'{"nothing":"' + b"." * 320 + b'"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every HTTP request alike."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})
