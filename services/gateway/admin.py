# GNU General Public License v3.0+ (see COPYING)
"""The tests' own door, on loopback and only if asked for: counts, planned faults, the clock."""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .faults import Plan
from .state import State


@dataclass
class ShiftedClock:
    """The system's clock, moved by some seconds."""

    offset_seconds: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset_seconds


def build_admin(state: State, plan: Plan, clock: ShiftedClock) -> Starlette:
    """Return the administration's application."""

    def counters(_request: Request) -> Response:
        return JSONResponse(state.counters())

    def faults(_request: Request) -> Response:
        return JSONResponse({"left": plan.left(), "fired": plan.fired})

    async def plan_faults(request: Request) -> Response:
        try:
            plan.replace(Plan.parse(await request.json()))
        except (ValueError, TypeError) as error:
            return JSONResponse({"detail": str(error)}, 422)
        return faults(request)

    async def shift_clock(request: Request) -> Response:
        clock.offset_seconds = float((await request.json())["offset_seconds"])
        return JSONResponse({"offset_seconds": clock.offset_seconds})

    return Starlette(
        routes=[
            Route("/counters", counters),
            Route("/faults", faults),
            Route("/faults", plan_faults, methods=["PUT"]),
            Route("/clock", shift_clock, methods=["PUT"]),
        ]
    )
