"""One sample: what arrived, at the size the model sees.

An image is uint8 (channels, height, width); a sensor window is float32 (channels, 1, time), an
image of height one, so everything after this file treats both alike.
"""

import io
import math
import zlib
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
import zstandard
from numpy.typing import NDArray

from edgecc.errors import MessageError
from edgecc.protocol import codecs
from edgecc.protocol import image as picture

Array = NDArray[Any]
_NPY_ERRORS = (  # the header is parsed as Python
    ValueError, EOFError, TypeError, OverflowError, SyntaxError, LookupError, TokenError,
    RecursionError, MemoryError,
)

_STARTS = {
    b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png",
    b"\x93NUMPY": "application/x-npy",
}

# 13 µs a sample, where zlib takes 49 and is no smaller; both for one thread at a time.
_COMPRESSOR, _DECOMPRESSOR = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()


@dataclass(frozen=True)
class Input:
    """What the model takes: kind, shape as configured, and how many pixels may be decoded."""

    kind: Literal["image", "sensor"] = "image"
    shape: tuple[int, ...] = (3, 64, 64)
    max_pixels: int = 3_000_000

    def check(self) -> None:
        wanted = 3 if self.kind == "image" else 2
        if len(self.shape) != wanted or min(self.shape) < 1:
            raise ValueError(f"{list(self.shape)} must have {wanted} sizes above 0 ({self.kind})")
        if self.kind == "image" and (self.shape[0] not in (1, 3) or min(self.shape[1:]) < 8):
            raise ValueError(f"{list(self.shape)}: images have 1 or 3 channels and at least 8x8")

    @property
    def model_shape(self) -> tuple[int, int, int]:
        """(C, H, W); a window (C, T) is (C, 1, T)."""
        if self.kind == "image":
            return self.shape[0], self.shape[1], self.shape[2]
        return self.shape[0], 1, self.shape[1]

    @property
    def dtype(self) -> type:
        return np.uint8 if self.kind == "image" else np.float32

    def unpack(self, packed: bytes) -> Array:
        """The stored bytes as the model's array. Logs of before version 0.2 have zlib's."""
        known = packed.startswith(zstandard.FRAME_HEADER)
        raw = _DECOMPRESSOR.decompress(packed) if known else zlib.decompress(packed)
        return np.frombuffer(raw, self.dtype).reshape(self.model_shape)


@dataclass(frozen=True)
class Sample:
    id: str
    source: str
    ts: float
    label: str | None
    x: Array

    def pack(self) -> bytes:
        """The array's bytes, compressed, as the store keeps them."""
        return _COMPRESSOR.compress(self.x.tobytes())


def decode(payload: bytes, content_type: str | None, spec: Input) -> Array:
    """Bytes to the model's array; MessageError says what was wrong."""
    kind = _sniff(payload) if content_type in (None, "") else str(content_type)
    if kind not in _DECODERS:
        raise MessageError(f"content type {kind!r} is not one of {', '.join(_DECODERS)}")
    return fit(_DECODERS[kind](payload, spec), spec)


def fit(array: Array, spec: Input) -> Array:
    """`array` at the model's shape and type, or a MessageError."""
    if array.dtype.kind not in "uifb" or array.size == 0:
        raise MessageError(f"{array.dtype} array of shape {array.shape} holds no real numbers")
    if spec.kind == "image":
        return _fit_picture(array, spec)
    wanted = spec.model_shape
    if array.size != math.prod(wanted) or array.shape not in (spec.shape, wanted, (array.size,)):
        raise MessageError(f"shape {array.shape} does not fit input.shape {list(spec.shape)}")
    return _finite(array.reshape(wanted))


def from_json(value: Any) -> Array:
    """An array of numbers, or {channel: [...]} in the order given."""
    if isinstance(value, dict):
        value = list(value.values())
    try:
        array = np.array(value, object)  # one long text must not set the size of every entry
        if not set(map(type, array.flat)) <= {int, float}:
            raise MessageError("JSON is not an array of numbers; expected [..] or {channel: [..]}")
        return array.astype(np.float64)
    except (ValueError, OverflowError) as error:
        raise MessageError(f"JSON is a ragged array: {error}") from error


def _sniff(payload: bytes) -> str:
    for start, kind in _STARTS.items():
        if payload.startswith(start):
            return kind
    json = payload.lstrip()[:1] in (b"[", b"{")
    return "application/json" if json else "application/octet-stream"


def _decode_picture(payload: bytes, spec: Input) -> Array:
    if spec.kind != "image":
        raise MessageError("a picture arrived but input.kind is sensor")
    return picture.decode(payload, spec.model_shape, spec.max_pixels)


def _decode_npy(payload: bytes, spec: Input) -> Array:
    limit = max(spec.max_pixels, math.prod(spec.shape)) * 8
    stream = io.BytesIO(payload)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else (
            np.lib.format.read_array_header_2_0)
        shape, fortran, dtype = read(stream)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > limit:
            raise MessageError(f"npy of {dtype} {shape} is not accepted")
        flat = np.frombuffer(payload, dtype, offset=stream.tell())
        return flat.reshape(shape, order="F" if fortran else "C")
    except _NPY_ERRORS as error:
        raise MessageError(f"npy cannot be read: {error}") from error


def _decode_raw(payload: bytes, spec: Input) -> Array:
    array = np.frombuffer(payload, np.uint8)
    if len(payload) != math.prod(spec.shape) * np.dtype(spec.dtype).itemsize:
        raise MessageError(
            f"{len(payload)} raw bytes do not fill input.shape {list(spec.shape)} of "
            f"{np.dtype(spec.dtype)}; expected JPEG, PNG, npy, JSON or exactly that")
    return array.view(spec.dtype).reshape(spec.shape)


def _decode_json(payload: bytes, _: Input) -> Array:
    return from_json(codecs.from_json(payload))


_DECODERS = {
    "image/jpeg": _decode_picture, "image/png": _decode_picture, "application/x-npy": _decode_npy,
    "application/json": _decode_json, "application/octet-stream": _decode_raw,
}


def _fit_picture(array: Array, spec: Input) -> Array:
    channels, height, width = spec.model_shape
    if array.shape == (height, width, channels):
        array = array.transpose(2, 0, 1)
    elif array.shape in (spec.shape, (channels * height * width,)) or (
        (1, *array.shape) == spec.shape
    ):
        array = array.reshape(channels, height, width)
    else:
        raise MessageError(f"shape {array.shape} does not fit input.shape {list(spec.shape)}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    array = _finite(array)
    if array.min() < 0 or array.max() > 255:
        raise MessageError(f"pixels from {array.min():g} to {array.max():g} are not in 0..255")
    return np.rint(array).astype(np.uint8)


def _finite(array: Array) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):  # too large for float32 is infinity
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise MessageError("array holds NaN or infinity")
    return array
