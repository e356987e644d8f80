"""Inline images of a request: where they stand, and one made smaller.

Rules:

1. An image only ever gets smaller: same format, no larger side, fewer bytes. It stands upright afterwards, as its EXIF data
   said, and these are gone.
2. What Pillow cannot read, and what moves, stays as it is; a decompression bomb is refused.
3. Nothing is ever fetched.
"""

import base64
import re
import warnings
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from typing import Any

from msgspec import Struct

from batchrunner.errors import UsageError


class UnsafeImage(Exception):  # noqa: N818 - a fact about an image
    """It would unpack to more pixels than are safe."""

    def __str__(self) -> str:
        return "an inline image would unpack to more pixels than are safe"


class Image(Struct, frozen=True):
    """An inline image: `holder[key]` is `lead` and then its base64."""

    holder: dict[str, Any]
    key: str
    lead: str
    encoded: str


_URL = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


def images(turns: Any) -> Iterator[Image]:
    """Those of a prompt."""
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("content", turn) if isinstance(turn, dict) else None
        for part in content if isinstance(content, list) else (content,):
            if isinstance(part, dict) and (image := _inline(part)):
                yield image


def _inline(part: dict[str, Any]) -> Image | None:
    """The image of a part of OpenAI's chats, of its responses, or of Anthropic's messages."""
    source = part.get("source")
    if part.get("type") == "image" and isinstance(source, dict) and source.get("type") == "base64":
        encoded = source.get("data")
        return Image(source, "data", "", encoded) if isinstance(encoded, str) else None
    inner = part.get("image_url") if part.get("type") in {"image_url", "input_image"} else None
    holder, key = (inner, "url") if isinstance(inner, dict) else (part, "image_url")
    url = holder.get(key) if inner else None
    lead = _URL.match(url) if isinstance(url, str) else None
    return Image(holder, key, lead[0], url[lead.end() :]) if lead and isinstance(url, str) else None


def shrink(encoded: str, most: int, quality: int) -> str:
    """The same image with no side longer than `most`, in base64; "" when it is to stay as it is. UnsafeImage."""
    library, ops = pillow()
    try:
        with library.open(BytesIO(base64.b64decode(encoded)), formats=_SAVED) as image:
            if max(image.size) <= most or getattr(image, "n_frames", 1) > 1:
                return ""
            saved = _saved(image, ops, most, quality)
    except library.DecompressionBombError:
        raise UnsafeImage from None
    except Exception:  # noqa: BLE001 - Pillow raises anything for a broken image; whether it is one, the endpoint may judge
        return ""
    smaller = base64.b64encode(saved).decode()
    return smaller if len(smaller) < len(encoded) else ""


_SAVED = ("JPEG", "PNG", "WEBP")


def _saved(image: Any, ops: Any, most: int, quality: int) -> bytes:
    form, profile = image.format, image.info.get("icc_profile")
    image.draft(None, (most, most))  # a JPEG is unpacked no larger than it has to be
    upright = ops.exif_transpose(image)
    if upright.mode == "P":  # shades between its colours are not on the palette
        upright = upright.convert("RGBA" if "transparency" in upright.info else "RGB")
    upright.thumbnail((most, most))
    target = BytesIO()
    upright.save(target, form, quality=quality, optimize=True, icc_profile=profile)
    return target.getvalue()


@cache
def pillow() -> tuple[Any, Any]:
    """Pillow's images and their operations. UsageError E206: it is not installed."""
    try:
        from PIL import Image, ImageOps  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UsageError("E206", "shrinking images needs an extra", "pip install 'batchrunner[images]'") from None
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # twice that size is refused
    return Image, ImageOps
