"""The page /docs: Swagger UI as an installed package carries it, so that it works without asking any other site."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, HTMLResponse

PAGE = "/docs"
SCRIPT, STYLE, START = f"{PAGE}/swagger-ui.js", f"{PAGE}/swagger-ui.css", f"{PAGE}/start.js"
PATHS = frozenset({PAGE, SCRIPT, STYLE, START})  # served to everybody
# Nothing of another site, no script or style within the page, and no frame around it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
_KEPT = {"Cache-Control": "public, max-age=86400"}
# All addresses are relative: a proxy may serve the application under a path of its own.
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""


def serve_documentation(app: FastAPI) -> None:
    """Add the page, its script and its style to an application made without FastAPI's own (`docs_url=None`)."""
    spec = find_spec("fastapi_offline")
    assert spec is not None and spec.submodule_search_locations
    static = Path(spec.submodule_search_locations[0]) / "static"

    @app.get(PAGE, include_in_schema=False)
    def page() -> Response:
        return HTMLResponse(_HTML.format(title=app.title), headers=_HEADERS)

    @app.get(START, include_in_schema=False)
    def start() -> Response:
        return Response(_START, media_type="text/javascript", headers=_KEPT)

    @app.get(SCRIPT, include_in_schema=False)
    def script() -> Response:
        return FileResponse(static / "swagger-ui-bundle.js", media_type="text/javascript", headers=_KEPT)

    @app.get(STYLE, include_in_schema=False)
    def style() -> Response:
        return FileResponse(static / "swagger-ui.css", media_type="text/css", headers=_KEPT)
