"""What a calibration consists of, read off its header: nothing here needs torch."""

import json
from typing import Any

from registry.errors import InvalidRequest

FLOAT32_BYTES = 4


def require_calibration(data: bytes, method: dict[str, Any], width: int | None) -> None:
    """Raise InvalidRequest where the bytes are no calibration, or not one for these settings.

    data: safetensors with mean (d,), matrix (d, d) and perhaps metric (d, d), float32. width: the d of the encoder;
    None: not known here, and for the worker to check.
    """
    if not method["whitened"]:
        raise InvalidRequest(
            "A calibration would not be used: the method's setting whitened is false.",
            "Leave the calibration out, or set whitened to true.",
        )
    dimension = _dimension(data)
    if width is not None and dimension != width:
        raise InvalidRequest(
            f"The calibration is for keys of {dimension} dimensions, but this collection's have {width}.",
            "Make one with `melo calibrate`, for the encoder of this collection.",
        )


def _dimension(data: bytes) -> int:
    """The d of the tensors' shapes. Raises InvalidRequest."""
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        shapes = {name: tuple(tensor["shape"]) for name, tensor in header.items()}
        types = {tensor["dtype"] for tensor in header.values()}
        ends = max(int(tensor["data_offsets"][1]) for tensor in header.values())
        (d,) = shapes["mean"]
        wanted = {"mean": (d,), "matrix": (d, d)} | ({"metric": (d, d)} if "metric" in shapes else {})
        size = sum(FLOAT32_BYTES * d ** len(shape) for shape in wanted.values())
        sound = shapes == wanted and types == {"F32"} and start + ends == start + size == len(data)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        sound, d = False, 0
    if not sound or not isinstance(d, int) or d < 1:
        raise InvalidRequest(
            f"These {len(data)} bytes are no calibration: not safetensors with mean (d,), matrix (d, d) and perhaps "
            "metric (d, d), in float32.",
            "Make one with `melo calibrate --out FILE`.",
        )
    return d
