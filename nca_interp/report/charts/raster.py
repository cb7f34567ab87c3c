"""Images inside the page: attention as 8-bit grey PNG, NCA frames as one palette sprite."""

from __future__ import annotations

import base64
import colorsys
import io
import math
from typing import Any

import numpy as np
from PIL import Image

SPRITE_COLUMNS = 10


def _data_uri(image: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def attention_png(pattern: np.ndarray) -> str:
    """Data URI of an attention pattern [query, key]: byte v = round(255 sqrt(p)), read back as (v / 255)^2.

    The square root keeps small weights visible; the largest error of a probability is 0.004.
    """
    if pattern.ndim != 2 or pattern.shape[0] != pattern.shape[1]:
        raise ValueError(f"pattern: shape {pattern.shape}; a square [query, key] array is needed")
    return _data_uri(Image.fromarray(_levels(pattern)))


def sheet_png(thumbnails: np.ndarray) -> str:
    """Data URI of thumbnails [layer, head, side, side] as one image, a row of heads a layer, in the levels of `attention_png`."""
    layers, heads, side, _ = thumbnails.shape
    return _data_uri(
        Image.fromarray(_levels(thumbnails).transpose(0, 2, 1, 3).reshape(layers * side, heads * side).copy())
    )


def _levels(attention: np.ndarray) -> np.ndarray:
    values = np.clip(np.nan_to_num(attention.astype(np.float64)), 0, 1)
    return np.rint(255 * np.sqrt(values)).astype(np.uint8)


def state_colors(n_states: int) -> list[tuple[int, int, int]]:
    """One distinct colour a cell state: hues around the circle, lightness alternating so that neighbours differ."""
    if n_states <= 4:
        return [(27, 38, 59), (119, 171, 217), (245, 190, 90), (214, 83, 72)][:n_states]
    lightness = (0.30, 0.55, 0.78)
    triples = [colorsys.hls_to_rgb((0.6 + i / n_states) % 1, lightness[i % 3], 0.55) for i in range(n_states)]
    return [(round(r * 255), round(g * 255), round(b * 255)) for r, g, b in triples]


def sprite_png(frames: np.ndarray, n_states: int) -> str:
    """Data URI of all frames [frame, row, column] side by side, ten a row, in the colours of `state_colors`."""
    count, height, width = frames.shape
    rows = math.ceil(count / SPRITE_COLUMNS)
    sheet = np.zeros((rows * height, SPRITE_COLUMNS * width), np.uint8)
    for index, frame in enumerate(frames):
        y, x = divmod(index, SPRITE_COLUMNS)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = frame
    image = Image.frombytes("P", (sheet.shape[1], sheet.shape[0]), sheet.tobytes())
    image.putpalette([channel for color in state_colors(n_states) for channel in color])
    return _data_uri(image, bits=4) if n_states <= 16 else _data_uri(image)
