"""Boxes and labels drawn into pictures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fer_keras.evaluation.plots import COLOURS

if TYPE_CHECKING:
    from PIL import ImageFont

#: Of faces whose label is uncertain.
GREY = "#7f8791"
#: A picture whose shorter side is below this is enlarged, so that a label in it can be read.
READABLE_PX = 240
#: But no further than to this longer side: of a strip, a picture of gigabytes would come.
LONGEST_PX = 4096
#: Left, top, right and bottom of a label that is drawn.
Place = tuple[float, float, float, float]


def label_colour(index: int, uncertain: bool = False) -> str:
    """The colour of a label by its position among the model's labels; grey for an uncertain one."""
    return GREY if uncertain else COLOURS[index % len(COLOURS)]


def font_for(text: str, size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """A font `size` pixels high that has the letters of a text, as far as one of this machine's fonts has them."""
    return _font("" if text.isascii() else "".join(sorted(set(text))), size)


@functools.lru_cache(maxsize=64)
def _font(letters: str, size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    from PIL import ImageFont

    if not letters:
        return ImageFont.load_default(size=size)
    from fer_keras.evaluation.plots_text import font_file  # brings matplotlib, which names in ASCII do without

    return ImageFont.truetype(font_file(letters), size)


def draw_faces(
    image_rgb: np.ndarray, boxes_xyxy_px: Sequence[Sequence[float]], texts: Sequence[str], colours: Sequence[str]
) -> np.ndarray:
    """A copy of a picture with a box and a label for each face.

    image_rgb: uint8 (h, w, 3). texts, colours: one a box; colours as #rrggbb. Returns uint8 (h, w, 3); a small picture comes
    back enlarged by a whole factor.
    """
    from PIL import Image, ImageDraw

    height, width = image_rgb.shape[:2]
    wanted, most = -(-READABLE_PX // min(height, width)), LONGEST_PX // max(height, width)
    factor = max(1, min(wanted, most))
    image = Image.fromarray(image_rgb).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    line = max(2, round(min(image.size) / 240))
    # Boxes first, so that no box runs through a label; those of small faces last, on top.
    order = sorted(range(len(boxes_xyxy_px)), key=lambda index: -box_area(boxes_xyxy_px[index]))
    for index in order:
        x1, y1, x2, y2 = (edge * factor for edge in boxes_xyxy_px[index])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colours[index], width=line)
    taken: list[Place] = []
    boxes = [[edge * factor for edge in box] for box in boxes_xyxy_px]
    for number, (text, colour) in enumerate(zip(texts, colours, strict=True)):
        _label(draw, number, boxes, text, colour, image.size, taken)
    return np.asarray(image)


def label_place(
    number: int,
    boxes_xyxy_px: Sequence[Sequence[float]],
    label_wh: tuple[float, float],
    picture_wh: tuple[int, int],
    taken: list[Place],
) -> tuple[float, float]:
    """Left and top of the label of the box of that number: on its upper edge, else inside, below or above the lower edge.

    Never outside the picture. The first of these that covers none of the labels at `taken` is taken, and added to them; where
    each does, the first. One that would hide small faces comes after those that hide less of them.
    """
    x1, y1, _, y2 = boxes_xyxy_px[number]
    wide, high = label_wh
    lowest = max(0, picture_wh[1] - high)
    left = max(0, min(x1, picture_wh[0] - wide))
    tops = [y1 - high, max(0, min(y1, lowest)), y2, y2 - high]
    places = [(left, top, left + wide, top + high) for top in tops if 0 <= top <= lowest]
    faces = [box for other, box in enumerate(boxes_xyxy_px) if other != number or y2 - y1 < 3 * high]

    def cost(place: Place) -> tuple[bool, float]:
        hidden = (_shared(place, face) / max(1, box_area(face)) for face in faces)
        # A corner of a face may be covered; and labels that made room for a pixel would jump from frame to frame.
        return any(_shared(place, other) for other in taken), sum(share for share in hidden if share > 0.15)

    place = min(places, key=cost)
    taken.append(place)
    return place[:2]


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    """The area of two places or boxes that both cover."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _label(
    draw: object, number: int, boxes: Sequence[Sequence[float]], text: str, colour: str, size: tuple[int, int], taken: list[Place]
) -> None:
    box = boxes[number]
    font = font_for(text, max(12, min(48, round((box[2] - box[0]) / 9))))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(2, round((bottom - top) / 5))
    wide, high = right - left + 2 * pad, bottom - top + 2 * pad
    x, y = label_place(number, boxes, (wide, high), size, taken)
    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 150 else "black"
    draw.text((x + pad - left, y + pad - top), text, fill=ink, font=font)


def box_area(box: Sequence[float]) -> float:
    """Of (x1, y1, x2, y2), in the square of its unit."""
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1)
