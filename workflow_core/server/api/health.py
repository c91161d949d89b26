"""Whether the server lives, and whether its databases can be used."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

__all__ = ["router"]

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok"] = "ok"


@router.get("/health")
async def health() -> Health:
    """Tell that the server lives."""
    return Health()
