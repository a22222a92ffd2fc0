"""The form of a calibration; nothing here needs torch."""

from typing import Any

from safetensors import SafetensorError, deserialize

from registry.base.errors import InvalidRequest


def require_calibration(data: bytes, method: dict[str, Any], width: int | None) -> None:
    """Raise InvalidRequest where the bytes are not a calibration, or not one for these settings.

    data: safetensors with mean (d,), matrix (d, d) and perhaps metric (d, d), float32. width: the d of the encoder;
    None: not known here, and for the worker to validate.
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
    """Return the d of the tensors' shapes. Raises InvalidRequest."""
    try:
        read = deserialize(data)  # type: ignore[no-untyped-call]
        found = {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in read}
    except SafetensorError:
        found = {}
    d = next(iter(found["mean"][1]), 0) if "mean" in found else 0
    wanted = {"mean": (d,), "matrix": (d, d)} | ({"metric": (d, d)} if "metric" in found else {})
    if d < 1 or found != {name: ("F32", shape) for name, shape in wanted.items()}:
        raise InvalidRequest(
            f"These {len(data)} bytes are not a calibration: not safetensors with mean (d,), matrix (d, d) and perhaps "
            "metric (d, d), in float32.",
            "Make one with `melo calibrate --out FILE`.",
        )
    return int(d)
