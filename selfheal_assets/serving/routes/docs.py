"""The pages that explain the API, Swagger UI and ReDoc, without a line from anybody else's server."""

import base64
import hashlib
import re
from pathlib import Path
from typing import cast

import fastapi_offline
from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.routing import Mount

FILES = "/docs-files"
_STATIC = Path(cast(str, fastapi_offline.__file__)).parent / "static"
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_POLICY = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def docs_router(title: str) -> APIRouter:
    """``/docs`` and ``/redoc``; their scripts are the copies that ``fastapi-offline`` carries."""
    router = APIRouter(include_in_schema=False, routes=[Mount(FILES, StaticFiles(directory=_STATIC))])

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        """Swagger UI."""
        root = request.scope.get("root_path", "").rstrip("/")
        page = get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=title,
            swagger_js_url=f"{root}{FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{FILES}/swagger-ui.css",
            swagger_favicon_url=f"{root}{FILES}/favicon.png",
        )
        return _guarded(page)

    @router.get("/redoc")
    async def redoc(request: Request) -> HTMLResponse:
        """ReDoc."""
        root = request.scope.get("root_path", "").rstrip("/")
        page = get_redoc_html(
            openapi_url=f"{root}/openapi.json",
            title=title,
            redoc_js_url=f"{root}{FILES}/redoc.standalone.js",
            redoc_favicon_url=f"{root}{FILES}/favicon.png",
            with_google_fonts=False,
        )
        return _guarded(page)

    return router


def _guarded(page: HTMLResponse) -> HTMLResponse:
    """The page with a policy that lets its own inline script run, by its hash, and no other."""
    scripts = _INLINE_SCRIPT.findall(bytes(page.body).decode())
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    page.headers["content-security-policy"] = _POLICY.format(
        scripts=" ".join(f"'sha256-{h}'" for h in hashes)
    )
    return page
