"""What is seen in the stream: the frame with boxes, or a notice where there is none; as JPEG."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence

import numpy as np

from fer_keras.types import TrackedFace
from serving.drawing import Place, box_area, font_for, label_colour, label_place

#: A blurred face keeps so many blocks across: a head is seen, a person is not.
BLUR_BLOCKS = 6
#: How much of its size around a box is blurred too, since hair and ears tell who somebody is.
BLUR_MARGIN = 0.25
NOTICE_WH = (640, 480)
#: Size in pixels at which Pillow's letters are as high as those of OpenCV's font at scale 1.
_FONT_PX = 30


def draw_live(
    image_rgb: np.ndarray, faces: Sequence[TrackedFace], labels: Sequence[str], blur: Sequence[Sequence[float]] = ()
) -> np.ndarray:
    """A frame with boxes, ids, labels and confidences, uint8 (h, w, 3) **BGR**, as the encoder takes it.

    Drawn by OpenCV, which needs a tenth of the time of `serving.drawing`; its one font has nothing but ASCII, so labels with
    other letters are written by Pillow. image_rgb: uint8 (h, w, 3), not changed. blur: boxes (x1, y1, x2, y2) in pixels; what
    is in them and close around is made unrecognisable first.
    """
    import cv2

    picture = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR)
    for box in blur:
        _blur(picture, box)
    height, width = picture.shape[:2]
    line = max(2, round(min(height, width) / 240))
    scale = max(0.4, min(height, width) / 900)
    colours = [_bgr(label_colour(labels.index(face.label), face.uncertain)) for face in faces]
    # Boxes first, so that no box runs through a label; those of small faces last, on top.
    for face, colour in sorted(zip(faces, colours, strict=True), key=lambda each: -box_area(each[0].box_xyxy_px)):
        x1, y1, x2, y2 = (round(edge) for edge in face.box_xyxy_px)
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, line, cv2.LINE_AA)
    taken: list[Place] = []
    # In the order of their ids, which lasts: whose label makes room for whose must not change from frame to frame.
    boxes = [[round(edge) for edge in face.box_xyxy_px] for face in faces]
    for number, face in sorted(enumerate(faces), key=lambda each: each[1].track_id):
        colour = colours[number]
        text = f"{face.track_id} {'uncertain' if face.uncertain else face.label} {face.confidence:.0%}"
        ink = (255, 255, 255) if sum(w * c for w, c in zip((0.114, 0.587, 0.299), colour, strict=True)) < 150 else (0, 0, 0)
        strip = _strip(text, scale, colour, ink)
        tall, wide = min(strip.shape[0], height), min(strip.shape[1], width)
        left, top = label_place(number, boxes, (wide, tall), (width, height), taken)
        picture[top : top + tall, left : left + wide] = strip[:tall, :wide]
    return picture


def _strip(text: str, scale: float, colour: Sequence[int], ink: Sequence[int]) -> np.ndarray:
    """A label as a picture of its own, uint8 (h, w, 3) BGR. scale: of OpenCV's font."""
    import cv2

    if text.isascii():
        (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        strip = np.empty((high + below + 6, wide + 8, 3), np.uint8)
        strip[:] = colour
        return cv2.putText(strip, text, (4, high + 3), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)
    from PIL import Image, ImageDraw

    font = font_for(text, round(_FONT_PX * scale))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    # Channels are swapped on the way in instead of on the way out.
    image = Image.new("RGB", (right - left + 8, bottom - top + 8), tuple(colour))
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, fill=tuple(ink), font=font)
    return np.asarray(image)


def encode_jpeg(picture_bgr: np.ndarray, quality: int) -> bytes:
    """uint8 (h, w, 3) BGR as the bytes of a JPEG file. quality: 1..100."""
    import cv2

    done, data = cv2.imencode(".jpg", picture_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV could not encode a picture of shape {picture_bgr.shape}")
    return data.tobytes()


@functools.lru_cache(maxsize=32)
def notice_jpeg(title: str, text: str) -> bytes:
    """A picture that says why there is no other one, as JPEG."""
    import cv2
    from PIL import Image, ImageDraw

    image = Image.new("RGB", NOTICE_WH, "#20242b")
    draw = ImageDraw.Draw(image)
    lines = textwrap.wrap(text, 52)[:6]
    middle = NOTICE_WH[1] / 2 - 14 * len(lines)
    draw.text((NOTICE_WH[0] / 2, middle - 26), title, fill="#ffb454", font=font_for(title, 30), anchor="mm")
    for number, line in enumerate(lines):
        place = (NOTICE_WH[0] / 2, middle + 22 + 28 * number)
        draw.text(place, line, fill="#e6e8ec", font=font_for(line, 20), anchor="mm")
    return encode_jpeg(cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2BGR), 85)


def _blur(picture: np.ndarray, box: Sequence[float]) -> None:
    import cv2

    x1, y1, x2, y2 = box
    grow = BLUR_MARGIN * max(x2 - x1, y2 - y1)
    height, width = picture.shape[:2]
    left, right = (int(min(max(edge, 0), width)) for edge in (x1 - grow, x2 + grow))
    top, bottom = (int(min(max(edge, 0), height)) for edge in (y1 - grow, y2 + grow))
    if right <= left or bottom <= top:
        return
    part = picture[top:bottom, left:right]
    blocks = cv2.resize(part, (BLUR_BLOCKS, BLUR_BLOCKS), interpolation=cv2.INTER_AREA)
    picture[top:bottom, left:right] = cv2.resize(blocks, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)


def _bgr(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return blue, green, red
