"""Pictures: a JPEG or PNG to pixels at the model's size, within bounded memory and time.

What a file claims is checked before anything is allocated for it. A JPEG of one scan counts at the
size it is decoded at (down to an eighth of each side), anything else in full.
"""

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgecc.errors import MessageError

if TYPE_CHECKING:
    from PIL.Image import Image

BYTES_A_PIXEL = 8  # at most, for each pixel decoded: a colour picture with alpha, and its copy
_MAX_SIDE = 65_535  # pixels: the tables for resizing grow with a side, not with the area
_MAX_SCANS = 64  # encoders write about ten; each is a pass over the whole picture
_MAX_TEXT = 2 * 2**20  # bytes of comments in a PNG, decompressed
_STANDALONE = {0x00, 0x01, *range(0xD0, 0xDA), 0xFF}  # second bytes of JPEG markers without length
_START_OF_SCAN = 0xDA
_ERRORS = (  # what Pillow's decoders raise on broken files
    OSError, SyntaxError, ValueError, LookupError, TypeError, OverflowError, struct.error,
    zlib.error,
)


def decode(payload: bytes, shape: tuple[int, int, int], max_pixels: int) -> NDArray[np.uint8]:
    """uint8 (channels, height, width) of `shape`, or a MessageError."""
    from PIL import Image, PngImagePlugin, UnidentifiedImageError

    PngImagePlugin.MAX_TEXT_MEMORY = _MAX_TEXT
    try:
        with Image.open(io.BytesIO(payload), formats=("JPEG", "PNG")) as picture:
            return _pixels(picture, payload, shape, max_pixels)
    except UnidentifiedImageError as error:
        raise MessageError("picture cannot be decoded: neither JPEG nor PNG") from error
    except (*_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MessageError(f"picture cannot be decoded: {error}") from error


def _pixels(
    picture: "Image", payload: bytes, shape: tuple[int, int, int], max_pixels: int
) -> NDArray[np.uint8]:
    from PIL import Image

    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    scans = 1 if picture.format == "PNG" else scans_of(payload)
    claimed = picture.size
    picture.draft(mode, (width, height))
    _check(claimed, claimed if scans > 1 else picture.size, scans, max_pixels)
    wide = picture.mode.startswith("I")  # 16 bits, which convert would clip to white
    eight: Any = picture.point(lambda value: value / 256) if wide else picture
    converted = eight if eight.mode == mode else eight.convert(mode)
    resized = converted.resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized).reshape(height, width, channels).transpose(2, 0, 1)


def _check(claimed: tuple[int, int], decoded: tuple[int, int], scans: int, most: int) -> None:
    if decoded[0] * decoded[1] > most or max(claimed) > _MAX_SIDE:
        raise MessageError(
            f"picture of {claimed[0]}x{claimed[1]} is over input.max_pixels {most}")
    if scans > _MAX_SCANS:
        raise MessageError(f"picture has {scans} scans, over {_MAX_SCANS}")


def scans_of(jpeg: bytes) -> int:
    """Scans of a JPEG, read as libjpeg reads markers; a thumbnail in a segment is not one."""
    count, place = 0, 2
    while (place := jpeg.find(b"\xff", place)) >= 0 and place + 4 <= len(jpeg):
        marker = jpeg[place + 1]
        if marker in _STANDALONE:
            place += 1
            continue
        count += marker == _START_OF_SCAN
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return count
