# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as a picture: one list of shapes, written as SVG by hand, or as PNG with Pillow.

    job 4711 (relax), alice: 2 lives in 40 min
    [] queued  [] restored  [] run  [] frozen  [] lost
    1 job 4711  ----[######|######|####xxx]
    2 job 4711                          ---[+####|######]
                +---------+---------+---------+---------+
                0       10 min    20 min    30 min    40 min
    useful 30 min (83.3 %)    overhead ...

What each colour says is said by a height too. The SVG is for light and dark pages; a PNG is light.
Pillow is imported for a PNG alone: compute nodes need none.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple, Union
from xml.sax.saxutils import escape

from pycr.errors import NotSupported, printable
from pycr.report.account import FROZEN, KINDS, LOST, QUEUED, RESTORE, RUN, Life
from pycr.report.history import Report
from pycr.report.text import MEANING, accounts, duration, span, state, summary

WIDTH = 960
LEFT, RIGHT = 190, 20
TOP, ROW, BAR = 82, 38, 22
SIZE, SMALL = 15, 12  # of letters
# kind -> the part of a bar's height that it takes
HEIGHT = {QUEUED: 0.15, RESTORE: 0.6, RUN: 1.0, FROZEN: 1.4, LOST: 0.45}
THIN = 1.5  # a stop of milliseconds is seen
COLOURS = {  # by Okabe and Ito, told apart by everybody; light, dark
    QUEUED: ("#8a8a8a", "#9a9a9a"),
    RESTORE: ("#e69f00", "#e69f00"),
    RUN: ("#009e73", "#00b586"),
    FROZEN: ("#0072b2", "#56b4e9"),
    LOST: ("#d55e00", "#f07a1f"),
    "ink": ("#1b1b1b", "#ececec"),
    "faint": ("#5f5f5f", "#a8a8a8"),
    "line": ("#d9d9d9", "#444444"),
    "page": ("#ffffff", "#151515"),
}
STEPS = (
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
    86400, 172800, 432000, 864000, 2592000, 8640000, 31536000,
)  # fmt: skip
MOST_TICKS = 9
MOST_ROWS = 200  # lives: the last ones


class Box(NamedTuple):
    """A rectangle. what: its colour's name. title: what it is, for who points at it."""

    x: float
    y: float
    width: float
    height: float
    what: str
    title: str = ""


class Text(NamedTuple):
    """A line of text from x on, or about it, or up to it. y: of its foot."""

    x: float
    y: float
    text: str
    size: int = SIZE
    what: str = "ink"
    anchor: str = "start"


Shape = Union[Box, Text]


class Picture(NamedTuple):
    """Shapes, in the order in which they are drawn; and what they are, for who cannot see them."""

    width: int
    height: int
    shapes: list[Shape]
    title: str
    text: str


def ticks(seconds: float) -> list[int]:
    """Return where a time axis of this length has its ticks."""
    step = next((each for each in STEPS if seconds / each <= MOST_TICKS), 0)
    step = step or int(seconds / MOST_TICKS) + 1
    return list(range(0, int(seconds) + 1, step))


def draw(made: Report) -> Picture:
    """Return the picture of a report."""
    lives = list(enumerate(made.lives, 1))[-MOST_ROWS:]
    began, ended = span([life for _, life in lives])
    scale = (WIDTH - LEFT - RIGHT) / (ended - began)
    bottom = TOP + ROW * len(lives)
    title = f"job {made.job_id} ({_short(made.name, 40)}), {made.user}: {summary(made)}"
    shapes: list[Shape] = [Box(0, 0, WIDTH, 0, "page"), Text(20, 30, title, SIZE + 2)]
    x = 20.0
    for kind in KINDS:
        height = min(HEIGHT[kind], 1.0) * 14
        width = 3 if kind == FROZEN else 14
        shapes += [Box(x, 55 - height / 2, width, height, kind), Text(x + 20, 60, MEANING[kind])]
        x += 40 + 9 * len(MEANING[kind])
    for tick in ticks(ended - began):
        at = LEFT + tick * scale
        shapes += [
            Box(at, TOP - 4, 1, bottom - TOP + 8, "line"),
            Text(at, bottom + 20, duration(tick) if tick else "0", SMALL, "faint", "middle"),
        ]
    for row, (number, life) in enumerate(lives):
        _row(shapes, TOP + ROW * row, number, life, began, scale)
    y = bottom + 50
    for name, text in accounts(made):
        shapes += [Text(20, y, name, SIZE, "faint"), Text(110, y, text)]
        y += 22
    height = int(y)
    shapes[0] = Box(0, 0, WIDTH, height, "page")
    told = [f"{name}: {text}" for name, text in accounts(made)]
    return Picture(WIDTH, height, shapes, title, "; ".join(told))


def _row(
    shapes: list[Shape], y: float, number: int, life: Life, began: float, scale: float
) -> None:
    middle = y + ROW / 2 - 2
    shapes.append(Text(20, middle, f"{number}   job {life.job_id}"))
    where = f"{life.nodes}  " if life.nodes else ""
    shapes.append(Text(20, middle + 14, _short(f"{where}{state(life)}", 26), SMALL, "faint"))
    for kind in (QUEUED, RUN, LOST, RESTORE, FROZEN):
        for each in life.segments:
            if each.kind == kind:
                height = HEIGHT[kind] * BAR
                width = max(THIN, each.seconds * scale)
                x = LEFT + (each.start - began) * scale
                title = f"{MEANING[kind]} {duration(each.seconds)}"
                shapes.append(Box(x, y + (ROW - height) / 2, width, height, kind, title))


def _short(text: str, longest: int) -> str:
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def svg(picture: Picture) -> bytes:
    """Return a picture as SVG, for light and dark pages."""
    light, dark = (
        "".join(f".{name}{{fill:{colours[theme]}}}" for name, colours in COLOURS.items())
        for theme in (0, 1)
    )
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {picture.width} {picture.height}"'
        f' width="{picture.width}" height="{picture.height}" role="img"'
        ' aria-labelledby="title desc" font-family="sans-serif">',
        f'<title id="title">{escape(picture.title)}</title>',
        f'<desc id="desc">{escape(picture.text)}</desc>',
        f"<style>{light}@media (prefers-color-scheme:dark){{{dark}}}</style>",
    ]
    for each in picture.shapes:
        if isinstance(each, Box):
            title = f"<title>{escape(each.title)}</title>" if each.title else ""
            out.append(
                f'<rect class="{each.what}" x="{each.x:.2f}" y="{each.y:.2f}"'
                f' width="{each.width:.2f}" height="{each.height:.2f}">{title}</rect>'
            )
        else:
            out.append(
                f'<text class="{each.what}" x="{each.x:.2f}" y="{each.y:.2f}"'
                f' font-size="{each.size}" text-anchor="{each.anchor}">{escape(each.text)}</text>'
            )
    return "\n".join([*out, "</svg>", ""]).encode("utf-8", "replace")


def png(picture: Picture, zoom: int = 2) -> bytes:
    """Return a picture as PNG, `zoom` dots for each of its own. Raises NotSupported."""
    try:
        from PIL import Image, ImageDraw, ImageFont

        fonts: dict[int, Any] = {
            each.size: ImageFont.load_default(each.size * zoom)
            for each in picture.shapes
            if isinstance(each, Text)
        }
    except (ImportError, TypeError) as error:
        raise NotSupported(
            "a PNG needs Pillow 10.1 or later here (pip install 'pycr[report]'); an SVG (-o"
            " FILE.svg) needs nothing, and --json is drawn elsewhere: pycr report --from FILE"
        ) from error
    image = Image.new("RGB", (picture.width * zoom, picture.height * zoom))
    canvas = ImageDraw.Draw(image)
    for each in picture.shapes:
        colour = COLOURS[each.what][0]
        if isinstance(each, Box):
            x, y = each.x * zoom, each.y * zoom
            right, foot = x + each.width * zoom, y + each.height * zoom
            canvas.rectangle((x, y, max(x, right - 1), max(y, foot - 1)), fill=colour)
        else:
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[each.anchor]
            at = (each.x * zoom, each.y * zoom)
            canvas.text(at, each.text, fill=colour, font=fonts[each.size], anchor=anchor)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
