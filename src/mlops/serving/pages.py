"""The web pages for trying the model, for labelling and with the API documentation: HTML with the project's names."""

import html
from pathlib import Path
from string import Template

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from src.mlops.project import Project
from src.mlops.serving.middleware import STRICT

PAGE = Path(__file__).parent / "page"
_PAGE_POLICY = f"{STRICT}; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'"
# Swagger UI uses inline styles and `data:` icons.
_DOCS_POLICY = (
    f"{STRICT}; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
)


def page_routes(project: Project) -> APIRouter:
    """Returns the routes of the pages, which need no API key. The review page has no data until it gets the token."""
    router = APIRouter(include_in_schema=False)
    index, documentation, reviewing = (_filled_in(name, project) for name in ("index.html", "docs.html", "review.html"))

    @router.get("/")
    async def page() -> Response:
        """Returns the web page for trying the model."""
        return Response(index, media_type="text/html", headers={"Content-Security-Policy": _PAGE_POLICY})

    @router.get("/review")
    async def review() -> Response:
        """Returns the web page for labelling."""
        return Response(reviewing, media_type="text/html", headers={"Content-Security-Policy": _PAGE_POLICY})

    @router.get("/docs")
    async def docs() -> Response:
        """Returns the API documentation."""
        return Response(documentation, media_type="text/html", headers={"Content-Security-Policy": _DOCS_POLICY})

    # With a slash, the browser would look for the files of the page below it. The target is relative, because a proxy
    # can add a path that the service does not know.
    @router.get("/review/")
    @router.get("/docs/")
    async def without_slash(request: Request) -> Response:
        """Redirects to the page."""
        return RedirectResponse(f"../{request.url.path.split('/')[-2]}", 308)

    return router


def _filled_in(file: str, project: Project) -> str:
    item = project.image_title
    names = {
        "title": project.title,
        "page_title": project.page_title,
        "item": item,
        "column": item[0].upper() + item[1:],
    }
    template = Template((PAGE / file).read_text(encoding="utf-8"))
    return template.substitute({name: html.escape(value) for name, value in names.items()})
