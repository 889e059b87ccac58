"""The page, and the same as JSON: what is asked for, and what is answered."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from ..data.modality import MODALITY_NAMES
from ..errors import ChipError, MOSError
from .guard import Guard, too_large
from .served import MODALITIES, SIDES, Asked, Served, Shown

HERE = Path(__file__).parent
MOST = 200  # chips of a ranking
_FORM = 64 * 2**10  # bytes of a body beside the chip
_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
Found = tuple[Shown, list[Shown]]


def make_app(served: Served, names: Collection[str] = ("localhost",), limit: int = 16 * 2**20) -> ASGIApp:
    """The page of an index.

    Args:
        names: host names, besides addresses, that requests may be made to.
        limit: bytes of an uploaded chip.
    """
    MultiPartParser.spool_max_size = max(MultiPartParser.spool_max_size, limit + _FORM)  # uploads stay in memory
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, max_body_size=limit + _FORM)  # its docs load scripts
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    def page(asked: Asked, found: Found | None = None, problem: str = "", status: int = 200) -> HTMLResponse:
        index = served.index
        values = {
            "facts": f"{len(index):,} chips, {index.weights.name}",
            "asked": {**dataclasses.asdict(asked), "difference": "" if asked.difference is None else asked.difference},
            "filters": "".join(f"&{name}={value}" for name, value in _fields(asked).items()),
            "query": _for_page(found[0]) if found else None,
            "hits": [_for_page(hit) for hit in found[1]] if found else [],
        }
        text = _TEMPLATES.get_template("page.html").render(
            values, problem=problem, notice=served.notice, limit=limit, most=MOST
        )
        return HTMLResponse(text, status)

    async def found_for(request: Request, fields: Mapping[str, Any]) -> tuple[Asked, int | None, Found | None]:
        asked, row = read_asked(fields)
        chip = fields.get("chip")
        if isinstance(chip, UploadFile) and (chip.filename or chip.size):
            name = re.split(r"[\\/]", chip.filename or "chip")[-1][:200]
            return asked, None, await run_in_threadpool(served.search_file, name, await chip.read(), asked)
        if row is None:
            return asked, None, None
        return asked, row, await run_in_threadpool(served.search_row, row, asked)

    @app.get("/")
    async def show(request: Request) -> Response:
        asked, _, found = await found_for(request, request.query_params)
        return await run_in_threadpool(page, asked, found)

    @app.post("/")
    async def submit(request: Request) -> Response:
        async with request.form(max_files=1, max_fields=10) as form:
            asked, row, found = await found_for(request, form)
        if row is not None:  # an address that can be kept
            return RedirectResponse(f"?{urlencode({'row': row, **_fields(asked)})}", 303)
        if found is None:
            raise HTTPException(400, "chip: choose the file of an image of one ship")
        return await run_in_threadpool(page, asked, found)

    @app.api_route("/api/search", methods=["GET", "POST"])
    async def search(request: Request) -> Response:
        if request.method == "GET":
            _, _, found = await found_for(request, request.query_params)
        else:
            async with request.form(max_files=1, max_fields=10) as form:
                _, _, found = await found_for(request, form)
        if found is None:
            raise HTTPException(400, "give a chip (a file, by POST) or a row (a number of the index)")
        query, hits = found
        ranked = [{"rank": rank, **_for_api(hit)} for rank, hit in enumerate(hits, 1)]
        return JSONResponse({"query": _for_api(query), "results": ranked, "notice": served.notice})

    @app.get("/chip/{row:int}")
    def picture(row: int, side: int = SIDES[0]) -> Response:
        if row >= 2**63:
            raise IndexError(row)
        content = served.picture(row, max(SIDES[:1] if side <= SIDES[0] else SIDES))
        return Response(content, media_type="image/jpeg", headers={"cache-control": "private, max-age=600"})

    async def refuse(request: Request, error: Exception) -> Response:
        status, text = _status(error, limit)
        if request.url.path == "/":
            return await run_in_threadpool(page, Asked(), None, text, status)
        return JSONResponse({"error": text}, status)

    for kind in (MOSError, IndexError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, refuse)
    return Guard(app, {"localhost", *names}, limit + _FORM)


def read_asked(fields: Mapping[str, Any]) -> tuple[Asked, int | None]:
    """The fields of the form, and the row of the index that is asked for; HTTPException 400 for what they cannot be."""
    values = {name: str(fields.get(name) or "").strip() for name in ("is", "modality", "difference", "k", "row")}
    for name in ("is", "modality"):
        if values[name] not in ("", *MODALITIES):
            raise HTTPException(400, f"{name}: optical, sar or nothing, got {values[name][:40]!r}")
    try:
        name, wanted = "k", f"a whole number from 1 to {MOST}"
        k = int(values["k"] or 20)
        if not 1 <= k <= MOST:
            raise ValueError
        name, wanted = "difference", "percent, 0 to 1000"
        difference = float(values["difference"]) if values["difference"] else None
        if difference is not None and not 0 <= difference <= 1000:
            raise ValueError
        name, wanted = "row", "the number of a chip of the index"
        row = int(values["row"]) if values["row"] else None
        if row is not None and not 0 <= row < 2**63:
            raise ValueError
    except ValueError:
        raise HTTPException(400, f"{name}: {wanted}, got {values[name][:40]!r}") from None
    return Asked(values["is"], values["modality"], difference, k), row


def _fields(asked: Asked) -> dict[str, Any]:
    fields = {"modality": asked.modality, "difference": asked.difference, "k": asked.k if asked.k != 20 else None}
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _for_page(chip: Shown) -> dict[str, Any]:
    kind = MODALITY_NAMES[MODALITIES.index(chip.modality)]
    size = f"{chip.width} × {chip.height} px, {chip.length:.0f} m"
    name = "/".join(Path(chip.path).parts[-2:])
    tall = chip.length * chip.height / max(chip.width, chip.height)  # metres
    return {**dataclasses.asdict(chip), "kind": kind, "size": size, "name": name, "tall": f"{tall:.1f}"}


def _for_api(chip: Shown) -> dict[str, Any]:
    values = dataclasses.asdict(chip)
    picture = values.pop("large")
    del values["small"]
    return {**values, "picture": None if chip.row is None or chip.problem else picture}


def _status(error: Exception, limit: int) -> tuple[int, str]:
    """What is answered to an error: status and text."""
    if isinstance(error, HTTPException):
        return error.status_code, too_large(limit) if error.status_code == 413 else str(error.detail)
    if isinstance(error, ClientDisconnect):
        return 400, "the upload was broken off"  # nobody reads it
    if isinstance(error, ChipError):
        return 422, f"{Path(error.path).name}: {error.problem}"
    if isinstance(error, MOSError):
        return 503, str(error)
    return 404, "the index has no such chip"
