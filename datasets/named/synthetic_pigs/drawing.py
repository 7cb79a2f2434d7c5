"""Draw the pig faces of `synthetic_pigs`.

An image is a pure function of a pig and a stream of random draws. The identity of a pig, its entry in `PIGS`, is fixed:
ears, snout, colors, patches, freckles, stripes, belt. Everything else is random per image: pose, light, background,
foreground, sharpness and sensor noise.

Two properties make a linear classifier on pixels fail, but not a small convolutional network. First, every coat color
is shared by two or three pigs, and sometimes by a blurred pig in the background, so color alone does not identify a
pig. Second, the head may be anywhere around the center, so no pixel has a fixed meaning. Shape and pattern identify the
pig; they do not depend on the position of the head, and nothing else in the image is sharp.

Face coordinates: x to the right, y down, z toward the viewer, in units of about half the height of a head; the origin
is between the eyes and the snout. Bytes depend only on the versions of NumPy and Pillow: draws are raw integers from
PCG64, sines are rounded, and polygons have integer corners, so that the last bit of a platform's math library does not
matter.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 256  # height and width in pixels
OVERSAMPLING = 3  # the pig is drawn this many times larger, then reduced, which smooths its edges
CANVAS = SIZE * OVERSAMPLING
# First elements of the keys of draws, so that images and pigs have different keys.
IMAGE, MARKINGS = 1, 2
RELIEF = 64  # height and width of the map on which light and shade are computed

Color = tuple[float, ...]  # red, green, blue; 0 to 255

PINK, CREAM = (234, 178, 164), (236, 198, 176)
GINGER, GOLD, RUST = (186, 110, 66), (206, 128, 66), (168, 84, 40)
BLACK, SLATE, UMBER, INK = (66, 58, 60), (80, 74, 80), (74, 54, 46), (45, 40, 42)
CHOCOLATE, WHITE = (78, 48, 36), (244, 236, 226)
SHADE, STEEL, STRAW, MUD = (30, 18, 16), (164, 167, 173), (196, 166, 100), (92, 70, 50)


@dataclass(frozen=True)
class Ear:
    """Size, position and posture of the ears."""

    length: float
    width: float
    root: float = 0.50  # distance of the root from the middle of the head
    outward: float = 0.35  # sideways lean: 0 upright
    droop: float = 0.0  # 0 pricked, 1 hanging
    point: float = 0.8  # 0 round, 1 pointed
    notched: bool = False  # a notch in the ear on the right of the image


@dataclass(frozen=True)
class Snout:
    """Half width and half height of the disc, its squareness, and its nostrils."""

    width: float
    height: float
    square: float = 0.0
    nostril_width: float = 0.075
    nostril_height: float = 0.11
    nostril_gap: float = 0.14  # from the middle
    nostril_tilt: float = 0.2  # radians


@dataclass(frozen=True)
class Pig:
    """One individual. Colors are RGB from 0 to 255; sizes are in face units."""

    description: str
    coat: Color
    ear_color: Color
    snout_color: Color
    ear: Ear
    snout: Snout
    width: float = 0.80  # half width of the head
    jowl: float = 0.12  # how much wider the head is at the bottom
    patches: tuple[tuple[float, float, float], ...] = ()  # x, y, radius on the head
    ear_patch: float = 0.0  # radius of a patch on the ear on the right of the image
    pattern: str = "plain"  # on head and body: plain, blotches, freckles, stripes, belt
    pattern_color: Color = INK
    pattern_count: int = 0  # on the body
    pattern_radius: float = 0.0
    freckles: int = 0  # on the head
    blaze: tuple[float, float] | None = None  # half width at the brow and at the snout
    white_muzzle: bool = False
    tuft: bool = False


PIGS = (
    Pig(
        "pink all over, tall pointed ears, the one on the right notched",
        *(PINK, (232, 146, 144), (240, 156, 154)),
        Ear(0.98, 0.34, outward=0.30, point=1.0, notched=True),
        Snout(0.34, 0.30, nostril_width=0.06, nostril_height=0.12, nostril_gap=0.12),
        width=0.78,
    ),
    Pig(
        "pink with black blotches, hanging ears, wide snout",
        *(PINK, (222, 158, 148), (226, 150, 146)),
        Ear(0.95, 0.40, droop=1.0, point=0.55),
        Snout(0.40, 0.28, nostril_gap=0.17),
        width=0.84,
        patches=(
            (-0.36, -0.22, 0.27),
            (0.40, 0.24, 0.20),
            (0.14, -0.62, 0.19),
            (-0.52, 0.42, 0.15),
        ),
        ear_patch=0.20,
        pattern="blotches",
        pattern_count=13,
        pattern_radius=0.29,
    ),
    Pig(
        "cream with rust freckles, small round ears, full jowls",
        *(CREAM, (222, 178, 152), (226, 164, 152)),
        Ear(0.58, 0.36, outward=0.55, point=0.45),
        Snout(0.38, 0.33, nostril_width=0.09, nostril_height=0.09, nostril_gap=0.15),
        width=0.86,
        jowl=0.20,
        pattern="freckles",
        pattern_color=RUST,
        pattern_count=110,
        pattern_radius=0.065,
        freckles=60,
    ),
    Pig(
        "cream with black ears, eye patches and belt, dark snout",
        *(CREAM, INK, (120, 92, 90)),
        Ear(0.78, 0.36, root=0.56, outward=0.75, point=0.7),
        Snout(0.33, 0.26, nostril_gap=0.13),
        width=0.76,
        patches=((-0.35, -0.19, 0.27), (0.35, -0.19, 0.27)),
        pattern="belt",
    ),
    Pig(
        "ginger with a white blaze and belt, long narrow pricked ears",
        *(GINGER, (164, 88, 50), (216, 150, 130)),
        Ear(1.02, 0.27, root=0.42, outward=0.18, point=0.95),
        Snout(
            0.31, 0.33, nostril_width=0.06, nostril_height=0.13, nostril_gap=0.12, nostril_tilt=0.35
        ),
        width=0.74,
        jowl=0.04,
        pattern="belt",
        pattern_color=WHITE,
        blaze=(0.15, 0.28),
    ),
    Pig(
        "ginger with black blotches, flopped ears, square dark snout",
        *(GINGER, (110, 64, 42), (112, 74, 62)),
        Ear(0.72, 0.36, droop=0.75, point=0.7),
        Snout(0.42, 0.27, square=1.0, nostril_width=0.09, nostril_height=0.08, nostril_gap=0.18),
        patches=((0.0, -0.62, 0.26), (-0.50, 0.20, 0.22), (0.52, 0.10, 0.20)),
        pattern="blotches",
        pattern_count=10,
        pattern_radius=0.27,
    ),
    Pig(
        "black with a white blaze, muzzle and belt, pink snout",
        *(BLACK, INK, (236, 176, 168)),
        Ear(0.82, 0.34, outward=0.40, point=0.85),
        Snout(0.35, 0.28),
        pattern="belt",
        pattern_color=WHITE,
        blaze=(0.15, 0.30),
        white_muzzle=True,
    ),
    Pig(
        "dark brown with gold stripes and a tuft, ears half down",
        *(UMBER, (60, 46, 42), (112, 80, 70)),
        Ear(0.80, 0.38, outward=0.6, droop=0.35, point=0.6),
        Snout(0.38, 0.31, nostril_width=0.07, nostril_height=0.07),
        width=0.86,
        pattern="stripes",
        pattern_color=GOLD,
        pattern_count=7,
        pattern_radius=0.10,
        tuft=True,
    ),
    Pig(
        "cream with chocolate stripes, short pointed brown ears",
        *(CREAM, (120, 84, 62), (176, 120, 110)),
        Ear(0.66, 0.30, root=0.55, outward=0.5, point=1.0),
        Snout(0.32, 0.30, nostril_width=0.08, nostril_height=0.10, nostril_tilt=0.5),
        width=0.76,
        jowl=0.02,
        pattern="stripes",
        pattern_color=CHOCOLATE,
        pattern_count=8,
        pattern_radius=0.085,
    ),
    Pig(
        "slate with white freckles, very large hanging ears",
        *(SLATE, (84, 76, 84), (120, 100, 104)),
        Ear(1.0, 0.44, droop=0.9, point=0.5),
        Snout(0.42, 0.30, square=0.5, nostril_gap=0.19),
        width=0.86,
        jowl=0.18,
        pattern="freckles",
        pattern_color=WHITE,
        pattern_count=110,
        pattern_radius=0.075,
        freckles=52,
    ),
)


class Draws:
    """Random draws that depend only on the key, not on the platform or NumPy version.

    NumPy guarantees the raw streams of PCG64 and SeedSequence, but not the outputs of Generator.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * ((self._bits.random_raw() >> 11) * 2.0**-53)

    def bell(self, deviation: float) -> float:
        """Draw from an approximate normal distribution with mean 0, limited to three standard deviations."""
        return deviation * 2.0 * (self.uniform() + self.uniform() + self.uniform() - 1.5)

    def below(self, n: int) -> int:
        return int(self.uniform() * n)

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def table(self, rows: int, *columns: tuple[float, float]) -> np.ndarray:
        """Draw a uniform array [rows, columns] with bounds per column."""
        raw = self._bits.random_raw(rows * len(columns)).reshape(rows, len(columns))
        low, high = np.array(columns).T
        return low + (high - low) * ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def bytes(self, count: int) -> np.ndarray:
        return self._bits.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count]


def cos(angle: float) -> float:
    return round(math.cos(angle), 6)


def sin(angle: float) -> float:
    return round(math.sin(angle), 6)


def _circle(corners: int) -> np.ndarray:
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return np.array([(cos(a), sin(a)) for a in angles])


CIRCLE, SMALL_CIRCLE = _circle(48), _circle(16)


def ellipse(
    x: float, y: float, rx: float, ry: float, tilt: float = 0.0, square: float = 0.0
) -> np.ndarray:
    """Outline [48, 2] of an ellipse. `square`, from 0 to 1, makes it more rectangular."""
    points = CIRCLE
    if square:
        points = points * (1 + 0.35 * square * (1 / np.abs(points).max(1, keepdims=True) - 1))
    points = points * (rx, ry)
    c, s = cos(tilt), sin(tilt)
    return np.stack(
        [points[:, 0] * c - points[:, 1] * s + x, points[:, 0] * s + points[:, 1] * c + y], 1
    )


def blob(
    x: float,
    y: float,
    radius: float,
    draws: Draws,
    rough: float = 0.22,
    circle: np.ndarray = CIRCLE,
) -> np.ndarray:
    """Outline of a patch with an uneven edge: a circle whose radius has second and third harmonics."""
    a, b, c, d = (draws.bell(rough) for _ in range(4))
    u, v = circle[:, 0], circle[:, 1]
    second = 0.6 * (a * (u * u - v * v) + 2 * b * u * v)
    third = 0.45 * (c * (u * u * u - 3 * u * v * v) + d * (3 * u * u * v - v * v * v))
    return circle * (radius * (1 + second + third))[:, None] + (x, y)


def mix(a: Sequence[float], b: Sequence[float], share: float) -> Color:
    """Interpolate from color a to color b by `share`."""
    return tuple(p + (q - p) * share for p, q in zip(a, b, strict=True))


def ink(color: Sequence[float]) -> tuple[int, ...]:
    return tuple(min(255, max(0, round(v))) for v in color)


def vary(color: Color, draws: Draws, deviation: float) -> Color:
    """Vary the brightness of a color randomly, and slightly its hue."""
    shift = draws.bell(deviation)
    return tuple(v + shift + draws.bell(deviation / 3) for v in color)


def corners(points: np.ndarray) -> list[int]:
    return np.rint(points).astype(int).ravel().tolist()


class Pose:
    """Random position and rotation of the head. Maps face coordinates to canvas pixels."""

    def __init__(self, draws: Draws) -> None:
        roll, yaw, pitch = draws.uniform(-0.12, 0.12), draws.uniform(-0.22, 0.22), draws.bell(0.08)
        self.scale = draws.uniform(67, 75) * OVERSAMPLING  # canvas pixels of a face unit
        self.x = (SIZE / 2 + draws.uniform(-70, 70)) * OVERSAMPLING
        self.y = (SIZE / 2 + 12 + draws.uniform(-56, 56)) * OVERSAMPLING
        self.roll, self.yaw, self.pitch = ((cos(a), sin(a)) for a in (roll, yaw, pitch))
        self.lean = (cos(0.35 * roll), sin(0.35 * roll))
        self.turn = draws.bell(0.25)

    def head(self, points: np.ndarray, depth: float | np.ndarray = 0.0) -> np.ndarray:
        """Project points of the head to the canvas, [..., 2], with slight perspective."""
        x, y = points[..., 0], points[..., 1]
        x, depth = x * self.yaw[0] + depth * self.yaw[1], depth * self.yaw[0] - x * self.yaw[1]
        y, depth = (
            y * self.pitch[0] - depth * self.pitch[1],
            depth * self.pitch[0] + y * self.pitch[1],
        )
        return self._place(x, y, self.roll, self.scale / (1.0 - 0.16 * depth))

    def body(self, points: np.ndarray) -> np.ndarray:
        """Project points of the body, which leans less than the head, to the canvas, [..., 2]."""
        return self._place(points[..., 0], points[..., 1], self.lean, 0.94 * self.scale)

    def _place(
        self,
        x: np.ndarray,
        y: np.ndarray,
        angle: tuple[float, float],
        scale: float | np.ndarray,
    ) -> np.ndarray:
        c, s = angle
        return np.stack([self.x + scale * (x * c - y * s), self.y + scale * (x * s + y * c)], -1)


# The fixed parts of a pig, computed once.


@dataclass(frozen=True)
class Markings:
    """The fixed outlines of a pig, in face coordinates."""

    head: np.ndarray  # [48, 2]
    head_marks: list[tuple[np.ndarray, np.ndarray, Color]]  # outlines [n, p, 2], depths [n, p]
    body_marks: np.ndarray  # [n, p, 2]
    ear_patch: np.ndarray  # [48, 2], about the origin


@cache
def markings(index: int) -> Markings:
    pig, draws = PIGS[index], Draws(MARKINGS, index)
    circle = CIRCLE * (1 + 0.10 * (1 / np.abs(CIRCLE).max(1, keepdims=True) - 1))
    y = circle[:, 1]
    width = pig.width * (1 + pig.jowl * y - 0.10 * np.where(y < 0, y * y, 0))
    head = np.stack([circle[:, 0] * width, y * np.where(y < 0, 0.86, 0.92)], 1)

    marks: list[tuple[np.ndarray, Color]] = []
    if pig.pattern == "stripes":
        along = np.array([k / 10 for k in range(11)])
        half = pig.pattern_radius * 1.0 * (1 - 0.8 * (2 * along - 1) ** 2)
        stripes = []
        for x in (-0.5, -0.25, 0.0, 0.25, 0.5):
            middle, down = x * (1 + 0.25 * along), -0.95 + along * (0.95 - 0.25 * abs(x))
            left, right = np.stack([middle - half, down], 1), np.stack([middle + half, down], 1)
            stripes.append(np.concatenate([left, right[::-1]]))
        marks.append((np.stack(stripes), pig.pattern_color))
    if pig.patches:
        marks.append((np.stack([blob(*p, draws) for p in pig.patches]), pig.pattern_color))
    if pig.freckles:
        spots = []
        for _ in range(pig.freckles):
            angle, out = draws.uniform(0, 2 * math.pi), math.sqrt(draws.uniform(0.02, 1))
            radius = pig.pattern_radius * draws.uniform(0.7, 1.3)
            at = 0.80 * out * cos(angle), 0.88 * out * sin(angle)
            spots.append(blob(*at, radius, draws, circle=SMALL_CIRCLE))
        marks.append((np.stack(spots), pig.pattern_color))
    if pig.blaze:
        top, low = pig.blaze
        edge = [(0.6 * top, -1.0), (top, -0.5), (0.9 * top, -0.2), (low, 0.35)]
        outline = np.array(edge + [(-x, y) for x, y in edge[::-1]])
        marks.append((outline[None], WHITE))
    if pig.white_muzzle:
        marks.append((blob(0, 0.45, 0.52, draws, rough=0.1)[None], WHITE))
    depths = [(m, face_depth(pig, m), color) for m, color in marks]
    return Markings(head, depths, _body_marks(pig, draws), blob(0, 0, pig.ear_patch, draws))


def _body_marks(pig: Pig, draws: Draws) -> np.ndarray:
    count, radius = pig.pattern_count, pig.pattern_radius
    if pig.pattern == "belt":
        upper = [(-2, 0.72), (-0.8, 1.02), (0, 1.10), (0.8, 1.02), (2, 0.72)]
        return np.array([upper + [(x, y + 0.6) for x, y in upper[::-1]]])
    if pig.pattern == "stripes":
        middles = [(k - (count - 1) / 2) * 2.6 / count for k in range(count)]
        down = ((0.6, 1.0, 0.1), (1.0, 1.0, 0.9), (1.2, 1.2, 3.0))
        return np.array(
            [
                [(m * x - radius * w, y) for x, w, y in down]
                + [(m * x + radius * w, y) for x, w, y in down[::-1]]
                for m in middles
            ]
        )
    marks = []
    for k in range(count):  # a sunflower spiral, evenly spaced for any count
        angle, out = 2.39996 * k + draws.uniform(-0.2, 0.2), math.sqrt((k + 0.5) / count)
        at = 1.35 * out * cos(angle), 1.35 + 0.95 * out * sin(angle)
        circle = SMALL_CIRCLE if pig.pattern == "freckles" else CIRCLE
        marks.append(blob(*at, radius * draws.uniform(0.8, 1.25), draws, circle=circle))
    return np.array(marks) if marks else np.zeros((0, 3, 2))


def face_depth(pig: Pig, points: np.ndarray) -> np.ndarray:
    """Depth (z) of the surface of the head at points [..., 2]."""
    x, y = points[..., 0] / pig.width, points[..., 1] / 0.95
    return 0.45 * np.sqrt(np.maximum(0.0, 1.0 - x * x - y * y))


def ear_outline(
    ear: Ear, side: int, droop: float, *, width: float = 1.0, start: float = 0.0, end: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Outline [50, 2] and center line [25, 2] of an ear, or of a narrower and shorter part of it.

    The center line is a quadratic curve from the root to the tip. Droop moves its control point up and outward, and its
    end down.
    """
    root = np.array([ear.root + 0.10 * droop, -0.66 + 0.10 * droop])
    upward = np.array([ear.outward, -1.0]) / math.sqrt(ear.outward * ear.outward + 1)
    length, rise = ear.length, ear.length * (1 - droop)
    bend = np.array([0.20, -0.12]) * (4 * length * droop * (1 - droop))
    control = root + upward * (0.5 * rise) + np.array([0.30, -0.42]) * (droop * length)
    tip = root + upward * rise + np.array([0.38, 0.92]) * (droop * length) + bend
    u = np.array([start + (end - start) * k / 24 for k in range(25)])
    v = u[:, None]
    middle = (1 - v) * (1 - v) * root + 2 * v * (1 - v) * control + v * v * tip
    along = 2 * (1 - v) * (control - root) + 2 * v * (tip - control)
    along = along / np.sqrt((along * along).sum(1, keepdims=True) + 1e-9)
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    round_, pointed = np.sqrt(np.maximum(0, 1 - u * u * u * u)), (1 - u) * (1 + 0.9 * u)
    half = (1 - ear.point) * round_ + ear.point * pointed
    half = half * (0.86 + u * (1 - u)) * (ear.width * width * (1 - 0.25 * droop))
    outer = half
    if ear.notched and side > 0 and width == 1.0:
        away = np.abs(u - 0.52)
        outer = np.where(away < 0.10, half * (0.25 + 6.5 * away), half)
    outline = np.concatenate(
        [middle + across * outer[:, None], (middle - across * half[:, None])[::-1]]
    )
    return outline * (side, 1.0), middle * (side, 1.0)


# The layers of the image, from back to front.


Ends = tuple[float, float, float, float]  # x and y of both end points


class Pen:
    """Draws on an image in its pixel coordinates, and optionally on a mask of the drawn area."""

    def __init__(self, image: Image.Image, cover: Image.Image | None = None) -> None:
        self._draw = ImageDraw.Draw(image)
        self._cover = None if cover is None else ImageDraw.Draw(cover)

    def fill(self, points: np.ndarray, color: Sequence[float]) -> None:
        at = corners(points)
        self._draw.polygon(at, fill=ink(color))
        if self._cover:
            self._cover.polygon(at, fill=255)

    def stroke(self, points: np.ndarray, color: Sequence[float], width: float) -> None:
        at, width = corners(points), max(1, round(width))
        self._draw.line(at, fill=ink(color), width=width, joint="curve")
        if self._cover:
            self._cover.line(at, fill=255, width=width, joint="curve")

    def line(self, ends: Ends, color: Color, width: float) -> None:
        at, width = [round(v) for v in ends], max(1, round(width))
        self._draw.line(at, fill=ink(color), width=width)
        if self._cover:
            self._cover.line(at, fill=255, width=width)

    def box(self, ends: Ends, color: Color) -> None:
        left, top, right, bottom = (round(v) for v in ends)
        if right >= left and bottom >= top:
            self._draw.rectangle((left, top, right, bottom), fill=ink(color))

    def fade(self, top: Color, bottom: Color, height: float = SIZE, steps: int = 24) -> None:
        for k in range(steps):
            self.box((0, height * k / steps, SIZE, SIZE), mix(top, bottom, k / (steps - 1)))


def draw_background(draws: Draws) -> Image.Image:
    """Draw a sty, a wall, a meadow or a pen, with other pigs and a trough, out of focus: RGB, SIZE x SIZE."""
    image = Image.new("RGB", (SIZE, SIZE))
    pen = Pen(image)
    kind = draws.below(len(BACKGROUNDS))
    BACKGROUNDS[kind](pen, draws)
    if draws.chance(0.4):
        scatter_straw(pen, draws, 60, SIZE * 0.72)
    for _ in range(draws.below(2)):  # the back of another pig, in one of the coat colors
        x, y = draws.uniform(-0.1, 1.1) * SIZE, draws.uniform(0.1, 1.05) * SIZE
        radius = draws.uniform(0.16, 0.42) * SIZE
        coat = vary((PINK, CREAM, GINGER, BLACK, SLATE)[draws.below(5)], draws, 14)
        back = ellipse(x, y, radius, radius * draws.uniform(0.55, 0.9), draws.bell(0.3))
        pen.fill(back, mix(coat, SHADE, 0.35))
        pen.fill(back * 0.94 + np.array([x, y - 0.15 * radius]) * 0.06, coat)
    if draws.chance(0.4):  # a trough or a bucket
        x, width, height = (
            draws.uniform(-0.1, 0.9) * SIZE,
            draws.uniform(40, 87),
            draws.uniform(33, 80),
        )
        y = SIZE - height * draws.uniform(0.5, 1)
        color = tuple(draws.uniform(40, 210) for _ in range(3))
        sides = [
            (x, y),
            (x + width, y),
            (x + 0.85 * width, y + height),
            (x + 0.15 * width, y + height),
        ]
        pen.fill(np.array(sides), color)
        pen.line((x, y, x + width, y), mix(color, WHITE, 0.4), 4)
    soft = ImageFilter.GaussianBlur(draws.uniform(2.0, 3.6))
    return image.reduce(2).filter(soft).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def scatter_straw(
    pen: Pen, draws: Draws, count: int, top: float, size: float = SIZE, color: Color = STRAW
) -> None:
    unit = size / SIZE
    bounds = ((0, size), (top, size), (0, math.pi), (0.08 * size, 0.28 * size), (1.4, 3), (-40, 40))
    for x, y, angle, length, width, tone in draws.table(count, *bounds).tolist():
        shade = tuple(v + tone for v in color)
        ends = (x, y, x + length * cos(angle), y + 0.7 * length * sin(angle))
        pen.line(ends, shade, width * unit)


def planks(pen: Pen, draws: Draws) -> None:
    woods = ((150, 108, 70), (110, 92, 80), (188, 160, 126), (92, 66, 50))
    wood, upright, at = woods[draws.below(4)], draws.chance(0.6), -draws.uniform(0, 33)
    while at < SIZE:
        width, color = draws.uniform(30, 57), vary(wood, draws, 14)
        for start, end, tone in (
            (at, at + width, mix(color, SHADE, 0.6)),
            (at + 2, at + width, color),
        ):
            box = (start, 0.0, end, SIZE) if upright else (0.0, start, SIZE, end)
            pen.box(box, tone)
        at += width


def straw_bed(pen: Pen, draws: Draws) -> None:
    color = vary((178, 148, 88), draws, 15)
    pen.box((0, 0, SIZE, SIZE), mix(color, (60, 44, 20), 0.35))
    scatter_straw(pen, draws, 150, -27, color=color)


def blocks(pen: Pen, draws: Draws) -> None:
    stone = ((158, 88, 70), (150, 148, 144), (202, 196, 186))[draws.below(3)]
    pen.box((0, 0, SIZE, SIZE), vary((120, 114, 106), draws, 20))
    height, width = draws.uniform(23, 37), draws.uniform(50, 77)
    y, row = -draws.uniform(0, height), 0
    while y < SIZE:
        x = -draws.uniform(0, 7) - (row % 2) * width / 2
        while x < SIZE:
            pen.box((x, y, x + width - 3, y + height - 3), vary(stone, draws, 10))
            x += width
        y, row = y + height, row + 1


def meadow(pen: Pen, draws: Draws) -> None:
    sky, grass = vary((160, 196, 222), draws, 22), vary((96, 142, 66), draws, 22)
    horizon = draws.uniform(0.2, 0.55) * SIZE
    pen.fade(sky, mix(sky, WHITE, 0.7), horizon)
    for _ in range(5):
        x, radius = draws.uniform(0, SIZE), draws.uniform(13, 47)
        bush = vary(mix(grass, (30, 60, 30), 0.4), draws, 12)
        pen.fill(ellipse(x, horizon - 0.3 * radius, radius, 0.7 * radius), bush)
    pen.box((0, horizon, SIZE, SIZE), grass)
    for x, y, tone in draws.table(90, (0, SIZE), (horizon, SIZE), (-30, 30)).tolist():
        pen.line((x, y, x, y - 12), tuple(v + tone for v in grass), 2)
    if draws.chance(0.5):
        wood = vary((140, 110, 84), draws, 20)
        for height in (0.35, 0.6):
            y = height * SIZE + draws.bell(7)
            pen.line((0, y, SIZE, y + draws.bell(7)), wood, 7)
        for k in range(3):
            x = (k + draws.uniform(0.1, 0.7)) * SIZE / 3
            pen.line((x, 0.25 * SIZE, x, SIZE), mix(wood, WHITE, 0.1), 10)


def metal_pen(pen: Pen, draws: Draws) -> None:
    far = vary((96, 100, 106), draws, 35)
    pen.fade(far, mix(far, (40, 36, 34), 0.8))
    steel, upright = vary(STEEL, draws, 16), draws.chance(0.5)
    step, at = draws.uniform(33, 57), draws.uniform(0, 20)
    while at < SIZE:
        bar(pen, at, upright, steel, 7, SIZE)
        at += step


def bar(pen: Pen, at: float, upright: bool, steel: Color, width: float, length: float) -> None:
    """Draw a round metal bar across the image: dark, medium and bright strips."""
    for offset, tone in (
        (0.0, mix(steel, SHADE, 0.4)),
        (0.18, steel),
        (0.40, mix(steel, WHITE, 0.5)),
    ):
        x, thickness = at + offset * width, width * (1 - 1.6 * offset)
        ends = (x, 0.0, x, length) if upright else (0.0, x, length, x)
        pen.line(ends, tone, thickness)


def lights(pen: Pen, draws: Draws) -> None:
    top, bottom = vary((132, 122, 112), draws, 40), vary((120, 124, 130), draws, 40)
    pen.fade(top, bottom)
    for _ in range(14):
        x, y, radius = draws.uniform(0, SIZE), draws.uniform(0, SIZE), draws.uniform(10, 43)
        glow = tuple(draws.uniform(50, 230) for _ in range(3))
        pen.fill(ellipse(x, y, radius, radius), mix(mix(top, bottom, y / SIZE), glow, 0.35))


BACKGROUNDS = (planks, straw_bed, blocks, meadow, metal_pen, lights)


@dataclass
class Layer:
    """The pig on the large canvas: image, mask, and outlines for shading."""

    image: Image.Image  # RGB, CANVAS x CANVAS
    cover: Image.Image  # L, CANVAS x CANVAS
    relief: list[tuple[np.ndarray, int]]  # outlines from back to front, and heights up to 255
    snout: np.ndarray  # outline of the disc


def draw_pig(index: int, draws: Draws) -> Layer:
    """Draw a pig in a random pose, without background."""
    pig, marks, pose = PIGS[index], markings(index), Pose(draws)
    tone, tint = draws.bell(7), [draws.bell(4) for _ in range(3)]

    def skin(color: Color) -> Color:  # the shade of a color in this image
        return tuple(v + tone * (0.4 + v / 320) + t for v, t in zip(color, tint, strict=True))

    coat = skin(pig.coat)
    dark, light = mix(coat, SHADE, 0.38), mix(coat, (255, 246, 236), 0.25)
    image = Image.new("RGB", (CANVAS, CANVAS), ink(dark))
    cover = Image.new("L", (CANVAS, CANVAS))
    pen, solid = Pen(image), Pen(image, cover)
    relief: list[tuple[np.ndarray, int]] = []

    # The body.
    belly = ellipse(1.35 * pose.turn, 1.75, 1.5 * pig.width / 0.8, 1.25)
    neck = ellipse(0.58 * pose.turn, 0.98, 0.92 * pig.width / 0.8, 1.0)
    outlines = [pose.body(belly), pose.body(neck)]
    for outline, height in zip(outlines, (90, 150), strict=True):
        solid.fill(outline, dark)
        relief.append((outline, height))
    shift = np.array([0.7 * pose.turn, 0.0])
    body_marks = [(pose.body(m + shift), skin(pig.pattern_color)) for m in marks.body_marks]
    stitch(
        image, outlines, mix(coat, SHADE, 0.12), [(p, mix(c, SHADE, 0.08)) for p, c in body_marks]
    )
    pen.stroke(outlines[1][2:23], mix(coat, SHADE, 0.3), 6)

    droops = [draws.bell(0.07)] * 2
    droops = [min(1.0, max(0.0, pig.ear.droop + d + draws.bell(0.05))) for d in droops]

    def ear(side: int, droop: float) -> None:
        depth = -0.12 if pig.ear.droop < 0.5 else 0.30
        outline, middle = ear_outline(pig.ear, side, droop)
        inner, _ = ear_outline(pig.ear, side, droop, width=0.68, start=0.04, end=0.90)
        color = skin(pig.ear_color)
        outline = pose.head(outline, depth)
        solid.fill(outline, mix(color, SHADE, 0.15))
        relief.append((outline, 200))
        lining = mix(color, (226, 130, 126), 0.35) if depth < 0 else mix(color, light, 0.15)
        pen.fill(pose.head(inner, depth), lining)
        if pig.ear_patch and side > 0:
            pen.fill(pose.head(marks.ear_patch + middle[13], depth), skin(pig.pattern_color))

    def both_ears() -> None:
        for side, droop in zip((-1, 1), droops, strict=True):
            ear(side, droop)

    if pig.ear.droop < 0.5:
        both_ears()
    head = pose.head(marks.head)
    solid.fill(head, dark)
    relief.append((head, 255))
    head_marks = [
        (outline, skin(color))
        for points, depth, color in marks.head_marks
        for outline in pose.head(points, depth)
    ]
    stitch(
        image,
        [head],
        coat,
        head_marks,
        bristles(pig, pose, draws, mix(coat, light, 0.35), mix(coat, dark, 0.35)),
    )
    draw_eyes(pen, pig, pose, dark)
    white = skin(WHITE) if pig.white_muzzle else coat
    disc = draw_snout(pen, pig.snout, pose, white, skin(pig.snout_color))
    if pig.ear.droop >= 0.5:
        both_ears()
    if pig.tuft:
        for x, bend, length, tone in draws.table(
            18, (-0.3, 0.3), (-0.08, 0.08), (0.2, 0.34), (-15, 15)
        ).tolist():
            hair = pose.head(np.array([(x, -0.72), (1.5 * x + bend, -0.72 - length)]), 0.1)
            solid.stroke(hair, [v + tone for v in skin(RUST)], 9)
    draw_foreground(solid, draws)
    return Layer(image, cover, relief, disc)


def stitch(
    image: Image.Image,
    outlines: list[np.ndarray],
    color: Color,
    marks: list[tuple[np.ndarray, Color]],
    hairs: Sequence[tuple[np.ndarray, Color]] = (),
) -> None:
    """Fill the union of outlines with a color, and with marks and hairs clipped to it."""
    every = np.concatenate(outlines)
    low = np.clip(np.floor(every.min(0)).astype(int) - 2, 0, CANVAS)
    high = np.clip(np.ceil(every.max(0)).astype(int) + 2, 0, CANVAS)
    if (high <= low).any():
        return
    size = tuple((high - low).tolist())
    piece, cut = Image.new("RGB", size, ink(color)), Image.new("L", size)
    pen, cutter = Pen(piece), ImageDraw.Draw(cut)
    for points, shade in hairs:
        pen.stroke(points - low, shade, 3)
    for points, shade in marks:
        pen.fill(points - low, shade)
    for points in outlines:
        cutter.polygon(corners(points - low), fill=255)
    image.paste(piece, tuple(low.tolist()), cut)


def bristles(
    pig: Pig, pose: Pose, draws: Draws, light: Color, dark: Color
) -> list[tuple[np.ndarray, Color]]:
    table = draws.table(110, (-0.85, 0.85), (-0.9, 0.85), (-0.02, 0.02))
    start = table[:, :2]
    end = np.stack([start[:, 0] * 1.06 + table[:, 2], start[:, 1] + 0.07], 1)
    points = np.stack([start, end], 1)
    places = pose.head(points, face_depth(pig, points))
    return [(p, dark if k % 2 else light) for k, p in enumerate(places)]


def draw_eyes(pen: Pen, pig: Pig, pose: Pose, dark: Color) -> None:
    for side in (-1, 1):
        x, y = side * (0.40 * pig.width + 0.03), -0.19
        for outline, color in (
            (ellipse(x, y, 0.115, 0.085, 0.25 * side), mix(dark, (40, 24, 22), 0.35)),
            (ellipse(x, y + 0.012, 0.092, 0.066, 0.25 * side), (214, 206, 198)),
            (ellipse(x, y + 0.008, 0.066, 0.066), (70, 45, 30)),
            (ellipse(x, y + 0.008, 0.036, 0.036), (14, 10, 10)),
            (ellipse(x - 0.025, y - 0.02, 0.017, 0.017), (250, 250, 250)),
        ):
            pen.fill(pose.head(outline, 0.36), color)
        brow = [
            (x - 0.13, y - 0.03 + 0.02 * side),
            (x, y - 0.105),
            (x + 0.13, y - 0.03 - 0.02 * side),
        ]
        pen.stroke(pose.head(np.array(brow), 0.36), dark, 6)


def draw_snout(pen: Pen, snout: Snout, pose: Pose, skin: Color, color: Color) -> np.ndarray:
    """Draw a short tube toward the viewer with wrinkles above, a disc with two nostrils, and the mouth below."""
    width, height, square = snout.width, snout.height, snout.square
    for k in range(9):
        t, grow = k / 8, 1.22 - 0.22 * k / 8
        ring = ellipse(0, 0.33 + 0.03 * t, width * grow, 1.04 * height * grow, square=square)
        pen.fill(pose.head(ring, 0.36 + 0.26 * t), mix(skin, SHADE, 0.22 * (1 - t)))
    for k in range(3):
        half, y = width * (0.62 - 0.12 * k), 0.31 - 1.05 * height - 0.055 * k
        fold = [(-half, y + 0.03), (-half / 2, y), (0, y - 0.008), (half / 2, y), (half, y + 0.03)]
        pen.stroke(pose.head(np.array(fold), 0.46), mix(skin, SHADE, 0.32), 5)
    disc = pose.head(ellipse(0, 0.36, width, height, square=square), 0.64)
    pen.fill(disc, mix(color, SHADE, 0.28))
    for shape, tone in (
        (ellipse(0, 0.355, 0.95 * width, 0.94 * height, square=square), color),
        (
            ellipse(-0.02, 0.325, 0.72 * width, 0.62 * height, square=square),
            mix(color, WHITE, 0.12),
        ),
    ):
        pen.fill(pose.head(shape, 0.64), tone)
    for side in (-1, 1):
        x, tilt, w, h = (
            side * snout.nostril_gap,
            -side * snout.nostril_tilt,
            snout.nostril_width,
            snout.nostril_height,
        )
        pen.fill(pose.head(ellipse(x, 0.36, 1.25 * w, 1.2 * h, tilt), 0.64), mix(color, SHADE, 0.3))
        pen.fill(pose.head(ellipse(x, 0.365, w, h, tilt), 0.64), mix(color, (24, 10, 12), 0.82))
    y = 0.36 + 1.12 * height
    mouth = [(-0.34, y - 0.06), (-0.2, y + 0.03), (0, y + 0.055), (0.2, y + 0.03), (0.34, y - 0.06)]
    pen.stroke(pose.head(np.array(mouth), 0.36), mix(skin, (40, 12, 14), 0.6), 8)
    return disc


def draw_foreground(pen: Pen, draws: Draws) -> None:
    """Draw, with some probability, a bar, straw or splashes of mud in front of the pig."""
    if draws.chance(0.2):
        at, upright = draws.uniform(0.05, 0.95) * CANVAS, draws.chance(0.5)
        bar(pen, at, upright, vary(STEEL, draws, 25), draws.uniform(20, 36), CANVAS)
    if draws.chance(0.35):
        scatter_straw(pen, draws, 3 + draws.below(8), draws.uniform(0.1, 0.8) * CANVAS, CANVAS)
    if draws.chance(0.3):
        mud = vary(MUD, draws, 10)
        for _ in range(1 + draws.below(5)):
            x, y = draws.uniform(0.15, 0.85) * CANVAS, draws.uniform(0.2, 0.95) * CANVAS
            pen.fill(blob(x, y, draws.uniform(8, 30), draws, rough=0.35), mud)


def draw(index: int, draws: Draws) -> np.ndarray:
    """Draw an image of pig `index` (0 to 9): uint8 RGB [256, 256, 3]."""
    background, layer = draw_background(draws), draw_pig(index, draws)
    cover = layer.cover.reduce(OVERSAMPLING)
    image = Image.composite(layer.image.reduce(OVERSAMPLING), background, cover)
    blur = draws.uniform(0, 0.9)
    if blur > 0.35:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    lit = np.asarray(image, np.float32) * illumination(layer, cover, draws)
    contrast, gain = draws.uniform(0.92, 1.08), draws.uniform(0.86, 1.12)
    cast = [gain * (1 + draws.bell(deviation)) for deviation in (0.03, 0.02, 0.035)]
    lit = ((lit - 120) * np.float32(contrast) + 120) * np.array(cast, np.float32)
    # Sensor noise: the sum of two random bytes has a triangular distribution with a standard deviation of 104.5.
    grain = draws.bytes(2 * lit.size).reshape(2, *lit.shape).astype(np.float32)
    lit += (grain[0] + grain[1] - 255) * np.float32(draws.uniform(1.5, 5) / 104.5)
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def illumination(layer: Layer, cover: Image.Image, draws: Draws) -> np.ndarray:
    """Compute the brightness factor of each pixel, float32 [256, 256, 1].

    The blurred outlines serve as a height map, whose slope relative to the light shades the pig. The snout casts a
    shadow downwards, the pig one around itself, and a gradient over the whole image is the light of the room.
    """
    unit = RELIEF / SIZE
    scale = RELIEF / CANVAS
    pig, snout = Image.new("L", (RELIEF, RELIEF)), Image.new("L", (RELIEF, RELIEF))
    filler = ImageDraw.Draw(pig)
    for points, height in layer.relief:
        filler.polygon(corners(points * scale), fill=height)
    ImageDraw.Draw(snout).polygon(corners(layer.snout * scale), fill=255)

    broad, fine, nose = soften(pig, 14 * unit), soften(pig, 5 * unit), soften(snout, 7 * unit)
    down, right = np.gradient(30 * unit * broad + 8 * unit * fine + 14 * unit * nose)
    angle = draws.uniform(0, 2 * math.pi)
    x, y = np.float32(0.8 * cos(angle)), np.float32(0.8 * sin(angle) - 0.5)  # mostly from above
    shade = 1 - np.float32(draws.uniform(0.35, 0.75)) * (right * x + down * y)
    fall = (1, 0, -round(4 * unit * float(x)), 0, 1, -round(9 * unit))
    below = snout.transform((RELIEF, RELIEF), Image.Transform.AFFINE, fall)
    open_ = 1 - np.asarray(snout, np.float32) / 255
    shade *= 1 - np.float32(0.30) * soften(below, 3 * unit) * open_

    ramp = np.linspace(-0.5, 0.5, RELIEF, dtype=np.float32)
    angle, strength = draws.uniform(0, 2 * math.pi), draws.uniform(0, 0.25)
    room = (
        1
        + np.float32(strength * cos(angle)) * ramp
        + np.float32(strength * sin(angle)) * ramp[:, None]
    )
    around = 1 - np.float32(0.22) * soften(pig, 10 * unit)
    inside = np.asarray(cover, np.float32)[..., None] / 255
    on_pig = enlarge(np.clip(shade, 0.45, 1.6) * room)
    return inside * on_pig + (1 - inside) * enlarge(around * room)


def soften(mask: Image.Image, radius: float) -> np.ndarray:
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def enlarge(field: np.ndarray) -> np.ndarray:
    """Enlarge a map of factors from 0 to 2 to the size of the image, float32 [256, 256, 1], quantized to bytes."""
    coarse = Image.fromarray(np.clip(np.rint(field * 127), 0, 255).astype(np.uint8))
    fine = coarse.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(fine, np.float32)[..., None] / 127
