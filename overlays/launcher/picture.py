"""The loss of a run as a PNG, which any viewer shows: the line, its mean over the steps around, and its bounds."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

from launcher.report import Steps

WIDTH, HEIGHT, MARGIN = 800, 400, 44
WHITE, GREY, PALE, BLUE, ORANGE = (255, 255, 255), (110, 110, 110), (190, 210, 235), (30, 90, 170), (220, 110, 20)
# Digits of 3 x 5 points, a row an octal digit.
GLYPHS: dict[str, str] = dict(
    zip(
        "0123456789.-e+",
        [
            "75557",
            "26227",
            "71747",
            "71717",
            "55711",
            "74717",
            "74757",
            "71111",
            "75757",
            "75717",
            "00002",
            "00700",
            "03763",
            "02720",
        ],
    )
)


def draw(path: Path, steps: Steps) -> None:
    """Draw the loss by step, and the validation loss where there is one; nothing where there are no two of them."""
    points = [(step, float(loss)) for step, loss in sorted(steps.losses.items()) if _is_number(loss)]
    checked = sorted(steps.validation_losses.items())
    if len(points) < 2:
        return
    canvas = Canvas([*points, *checked])
    canvas.line(points, PALE)
    canvas.line(smooth(points), BLUE)
    canvas.line(checked, ORANGE)
    path.write_bytes(png(canvas.rows))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each loss as the mean of those around it, a twentieth of the run to each side."""
    reach = len(points) // 20
    means = []
    for at, (step, _) in enumerate(points):
        near = [loss for _, loss in points[max(0, at - reach) : at + reach + 1]]
        means.append((step, sum(near) / len(near)))
    return means


class Canvas:
    """Rows of RGB bytes with a frame; points are (step, loss), scaled to all of them."""

    def __init__(self, points: Sequence[tuple[int, float]]):
        self.rows = [bytearray(WHITE * WIDTH) for _ in range(HEIGHT)]
        self.left, self.right = min(x for x, _ in points), max(x for x, _ in points)
        self.low, self.high = min(y for _, y in points), max(y for _, y in points)
        for x in range(MARGIN, WIDTH - 8):
            self.dot(x, HEIGHT - 20, GREY)
        for y in range(8, HEIGHT - 20):
            self.dot(MARGIN, y, GREY)
        self.text(2, 8, f"{self.high:.4g}")
        self.text(2, HEIGHT - 32, f"{self.low:.4g}")
        self.text(MARGIN, HEIGHT - 14, str(self.left))
        self.text(WIDTH - 8 - 8 * len(str(self.right)), HEIGHT - 14, str(self.right))

    def dot(self, x: int, y: int, colour: tuple[int, int, int]) -> None:
        if 0 <= x < WIDTH and 0 <= y < HEIGHT:
            self.rows[y][3 * x : 3 * x + 3] = bytes(colour)

    def text(self, x: int, y: int, text: str) -> None:
        for number, letter in enumerate(text):
            for row, bits in enumerate(GLYPHS.get(letter, "00000")):
                for column in range(3):
                    if int(bits) >> (2 - column) & 1:
                        for point in range(4):
                            self.dot(x + 8 * number + 2 * column + point % 2, y + 2 * row + point // 2, GREY)

    def line(self, points: Sequence[tuple[int, float]], colour: tuple[int, int, int]) -> None:
        placed = [self._place(*point) for point in points]
        for (x, y), (to_x, to_y) in zip(placed, placed[1:]):
            count = max(abs(to_x - x), abs(to_y - y), 1)
            for part in range(count + 1):
                at_x, at_y = x + (to_x - x) * part // count, y + (to_y - y) * part // count
                self.dot(at_x, at_y, colour)
                self.dot(at_x, at_y + 1, colour)

    def _place(self, step: float, loss: float) -> tuple[int, int]:
        across = (step - self.left) / (self.right - self.left or 1)
        up = (loss - self.low) / (self.high - self.low or 1)
        return MARGIN + 4 + int(across * (WIDTH - MARGIN - 16)), HEIGHT - 26 - int(up * (HEIGHT - 40))


def png(rows: Sequence[bytearray]) -> bytes:
    """Rows of RGB bytes as a PNG (its specification: signature, header, compressed rows without a filter, end)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
