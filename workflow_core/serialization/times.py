"""Dates and times with their zones, as tagged JSON and back."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from workflow_core.serialization.tags import TAG, Json, RefusedError

__all__ = ["decode_datetime", "decode_time", "encode_time", "encode_zone"]

_FIXED_ZONES = (timezone,)


def encode_zone(value: datetime | time, path: str) -> dict[str, Json]:
    """Return what a datetime's ISO text, or a time's, does not tell: its fold, and its zone by name."""
    extra: dict[str, Json] = {"fold": 1} if value.fold else {}
    zone = value.tzinfo
    if zone is None or isinstance(zone, _FIXED_ZONES):
        return extra
    if isinstance(zone, ZoneInfo) and zone.key:
        return {**extra, "zone": zone.key}
    raise RefusedError(
        f"{path or 'the value'} has a time zone of class {type(zone).__qualname__}; use datetime.timezone or zoneinfo"
    )


def encode_time(value: time, path: str) -> Json:
    """Return a time of day with its zone, or with its distance from UTC."""
    return {TAG: "time", "value": value.replace(tzinfo=None).isoformat(), **_encode_time_zone(value, path)}


def _encode_time_zone(value: time, path: str) -> dict[str, Json]:
    extra = encode_zone(value, path)
    offset = value.utcoffset()
    if offset is not None and "zone" not in extra:
        extra["offset"] = [offset.days, offset.seconds, offset.microseconds]
    return extra


def decode_datetime(encoded: dict[str, Any]) -> datetime:
    """Return the moment that was stored."""
    moment = datetime.fromisoformat(encoded["value"])
    if "zone" in encoded:
        moment = moment.replace(tzinfo=ZoneInfo(encoded["zone"]))
    elif moment.tzinfo is not None and moment.utcoffset() == timedelta(0):
        moment = moment.replace(tzinfo=UTC)
    return moment.replace(fold=encoded.get("fold", 0))


def decode_time(encoded: dict[str, Any]) -> time:
    """Return the time of day that was stored."""
    moment = time.fromisoformat(encoded["value"]).replace(fold=encoded.get("fold", 0))
    if "zone" in encoded:
        return moment.replace(tzinfo=ZoneInfo(encoded["zone"]))
    if "offset" in encoded:
        days, seconds, microseconds = encoded["offset"]
        offset = timedelta(days, seconds, microseconds)
        return moment.replace(tzinfo=timezone(offset) if offset else UTC)
    return moment
