"""Rows that need more than text: an image, a video or a sound, in a column or at a place in the text."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from diq.base.sample import Message

# names such as image, images, image_url, img_path, pixel_values, figure, scan; a caption of one is text
_COLUMN = re.compile(r"(?:^|[_ -])(image|img|picture|photo|pixel|video|audio)", re.IGNORECASE)
_FILE = re.compile(
    r"\A\s*data:(?:image|video|audio)/|\.(?:png|jpe?g|gif|webp|bmp|tiff?|dcm|mp4|mov|avi|webm|wav|mp3|flac)\s*\Z",
    re.IGNORECASE,
)
# where a processor puts an image in: LLaVA's, Qwen's, Gemma's, Llama's; some are tags of HTML, which hardly
# stand alone at one end of a question
_PLACE = re.compile(
    r"<\|(?:image|image_pad|video_pad|audio_pad|vision_start|audio_bos)\|>"
    r"|<image>|<image_soft_token>|<start_of_image>|\[IMG\]"
    r"|\A\s*<(?:video|audio|img)>|<(?:video|audio|img)>\s*\Z"
)


def media_column(row: Mapping[str, Any]) -> str | None:
    """The first column that holds an image, a video or a sound, or names a file of one."""
    return next((name for name, value in row.items() if _may_name_media(name) and _is_media(value)), None)


@functools.lru_cache(maxsize=4096)
def _may_name_media(name: str) -> bool:
    # the rows of a file have the same columns
    return _COLUMN.search(name) is not None


def _is_media(value: Any) -> bool:
    if isinstance(value, bytes):
        return bool(value)
    if isinstance(value, str):
        # a list that a CSV carries as text ends in brackets
        return bool(_FILE.search(value.strip(" []{}'\"")))
    if isinstance(value, Mapping):
        # as `datasets` stores one, or as messages do
        return any(_is_media(value.get(key)) for key in ("bytes", "path", "url", "image_url", "data"))
    if isinstance(value, Sequence):
        return any(_is_media(one) for one in value) or _is_pixels(value)
    return False


def _is_pixels(value: Sequence[Any]) -> bool:
    return bool(value) and isinstance(value[0], Sequence) and not isinstance(value[0], str)


def media_place(messages: Sequence[Message]) -> tuple[int, str] | None:
    """Number of the first turn of a user with a place for an image, and what stands there."""
    for number, message in enumerate(messages, start=1):
        text = message["content"]
        # all of them begin with one of these, and hardly a question has any
        if message["role"] == "assistant" or not ("<" in text or "[IMG]" in text):
            continue
        if found := _PLACE.search(text):
            return number, found[0].strip()
    return None
