"""Fields of numbers with unit, source and the range they are held to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

__all__ = ["check_field", "count", "curve", "hu", "number", "rate", "span", "volume"]


def span(low: float, high: float, unit: str, source: str, *, least: float = -math.inf, most: float = math.inf) -> Any:
    """A field (low, high), both in [least, most], that is drawn from uniformly."""
    return field(
        default=(low, high), metadata={"kind": "span", "unit": unit, "source": source, "within": (least, most)}
    )


def rate(value: float, of: str, source: str) -> Any:
    """A field in [0, 1]."""
    return field(default=value, metadata={"kind": "rate", "unit": of, "source": source})


def volume(mean: float, sd: float, source: str) -> Any:
    """A field (mean, SD) of a log-normal, both positive."""
    return field(default=(mean, sd), metadata={"kind": "volume", "unit": "mm3 (mean, SD)", "source": source})


def curve(values: Sequence[float], unit: str, source: str) -> Any:
    """A field of two or more numbers of at least 0."""
    return field(default=tuple(values), metadata={"kind": "curve", "unit": unit, "source": source})


def number(value: float, unit: str, source: str) -> Any:
    """A positive field."""
    return field(default=value, metadata={"kind": "length", "unit": unit, "source": source})


def count(value: int, unit: str, source: str) -> Any:
    """A field of a whole number from 1."""
    return field(default=value, metadata={"kind": "count", "unit": unit, "source": source})


def hu(value: float, unit: str, source: str) -> Any:
    """A field of any number."""
    return field(default=value, metadata={"kind": "hu", "unit": unit, "source": source})


def check_field(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Refuse a value out of a field's range.

    Raises:
        ValueError: naming the field.
    """
    _CHECKS[metadata["kind"]](name, value, metadata)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_span(name: str, value: Any, metadata: Any) -> None:
    least, most = metadata["within"]
    two = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    if not (two and least <= value[0] <= value[1] <= most):
        raise ValueError(f"{name} must be (low, high) with {least:g} <= low <= high <= {most:g}, got {value!r}")


def _check_rate(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if not (_is_number(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}")


def _check_volume(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    two = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    if not (two and min(value) > 0):
        raise ValueError(f"{name} must be (mean, SD) in mm3, both positive, got {value!r}")


def _check_curve(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if not (isinstance(value, tuple) and len(value) >= 2 and all(_is_number(v) and v >= 0 for v in value)):
        raise ValueError(f"{name} must be two or more numbers of at least 0, got {value!r}")


def _check_count(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_length(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if not (_is_number(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def _check_hu(name: str, value: Any, metadata: Any) -> None:  # noqa: ARG001
    if not _is_number(value):
        raise ValueError(f"{name} must be a finite number of HU, got {value!r}")


_CHECKS = {
    "span": _check_span,
    "rate": _check_rate,
    "volume": _check_volume,
    "curve": _check_curve,
    "count": _check_count,
    "length": _check_length,
    "hu": _check_hu,
}
