"""Drawn landscapes whose attributes are known exactly, to test what a text changes (ours).

Everything is a function of the seed and the place in the world, so a scene can be drawn at any size, and a video is the
same scene seen from further on. NumPy only.
"""

import itertools
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nuwa_lightning.errors import UsageError

# Legend: Y, X pixels along the axes; 3 colours.

Field = NDArray[np.float64]

TIMES: Final = ("day", "dusk", "night")
SKIES: Final = ("blue", "grey", "red")
MOTIONS: Final = ("still", "pan left", "pan right")


@dataclass(frozen=True)
class Scene:
    """What is to be seen.

    Attributes:
        time: day, dusk or night.
        sky: colour of the sky: blue, grey or red.
        mountains: mountains behind the land.
        water: a lake in front.
        snow: snow on all land.
        motion: how the camera moves in a video; not seen in an image.
    """

    time: str = "day"
    sky: str = "blue"
    mountains: bool = False
    water: bool = False
    snow: bool = False
    motion: str = "still"

    def __post_init__(self) -> None:
        for name, words in (("time", TIMES), ("sky", SKIES), ("motion", MOTIONS)):
            if getattr(self, name) not in words:
                raise UsageError(f"scene.{name}", getattr(self, name), f"choose one of {', '.join(words)}")

    @property
    def seen(self) -> dict[str, str | bool]:
        """The attributes that a single image shows."""
        return {name: value for name, value in asdict(self).items() if name != "motion"}

    @property
    def name(self) -> str:
        """A short name, the same for equal attributes."""
        marks = [name for name in ("mountains", "water", "snow") if getattr(self, name)]
        still = [] if self.motion == "still" else [self.motion.replace(" ", "_")]
        return "-".join([self.time, self.sky, *marks, *still])


def all_scenes(*, motions: bool = False) -> list[Scene]:
    """Return every combination of attributes, the still ones only unless ``motions``."""
    words = {"time": TIMES, "sky": SKIES, "motion": MOTIONS if motions else MOTIONS[:1]}
    choices = [words.get(field.name, (False, True)) for field in fields(Scene)]
    return [Scene(*values) for values in itertools.product(*choices)]  # type: ignore[arg-type]


_WORDS: Final[dict[str, dict[str | bool, tuple[str, ...]]]] = {
    "time": {
        "day": ("by day", "at noon", "in daylight"),
        "dusk": ("at dusk", "at sunset", "in the evening"),
        "night": ("at night", "in the dark", "by moonlight"),
    },
    "sky": {
        "blue": ("a blue sky", "a clear blue sky"),
        "grey": ("a grey sky", "an overcast grey sky"),
        "red": ("a red sky", "a glowing red sky"),
    },
    "mountains": {True: ("mountains", "high peaks", "mountain ranges"), False: ("plains", "flat land", "open fields")},
    "water": {True: ("a lake", "calm water", "a wide lake"), False: ("no water", "dry land", "no lake")},
    "snow": {True: ("snowy", "snow-covered", "wintry"), False: ("green", "grassy", "summery")},
    "motion": {
        "still": (),
        "pan left": ("the camera moves to the left", "panning left"),
        "pan right": ("the camera moves to the right", "panning right"),
    },
}
_SENTENCES: Final = (
    "{snow} {mountains} and {water} {time}, under {sky}",
    "{time}, {sky} over {snow} {mountains} with {water}",
    "{sky} {time}: {snow} {mountains}, {water}",
    "a picture of {snow} {mountains} with {water}, {sky}, {time}",
)


def caption(scene: Scene, seed: int) -> str:
    """Return a sentence that names every attribute; the words depend on the seed."""
    random = np.random.default_rng([seed, 7])
    said = {
        name: choices[int(random.integers(len(choices)))]
        for name, words in _WORDS.items()
        if (choices := words[getattr(scene, name)])
    }
    text = _SENTENCES[int(random.integers(len(_SENTENCES)))].format(**said)
    return f"{text}, {said['motion']}" if "motion" in said else text


_SKY: Final = {
    "blue": ((62, 122, 208), (176, 210, 240)),
    "grey": ((122, 126, 132), (196, 198, 200)),
    "red": ((168, 50, 62), (246, 138, 92)),
}
_LIGHT: Final = {"day": 1.0, "dusk": 0.6, "night": 0.26}
_PAN: Final = 1 / 18  # of the height a frame: 8 pixels, a token of the default tokenizer, where it is 144


def draw(scene: Scene, seed: int, size: tuple[int, int], *, frame: int = 0) -> NDArray[np.uint8]:
    """Return the image of a scene, uint8 ``[Y, X, 3]``."""
    random = np.random.default_rng([seed, 1])
    height, width = size
    # The unit of the world is the height of the image; x may go on without end.
    speed = {"still": 0.0, "pan left": -_PAN, "pan right": _PAN}[scene.motion]
    y_Y1, x_1X = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None] + 0.5) / height + speed * frame
    horizon = random.uniform(0.44, 0.56)
    light = _LIGHT[scene.time] * random.uniform(0.92, 1.08)
    image_YX3 = _sky(scene, random, y_Y1, x_1X, horizon)
    if scene.mountains:
        for depth in range(2):
            ridge_1X = horizon - (0.3 - 0.13 * depth) * (
                0.3 + 0.9 * _ridges(seed * 4 + depth, x_1X * (2.2 + 1.3 * depth))
            )
            rock = np.array([96, 94, 112]) + 14.0 * depth
            peak_YX = np.clip((y_Y1 - ridge_1X) / 0.1, 0, 1)
            tone_YX1 = (0.86 + 0.28 * _noise2(seed + 11 + depth, x_1X * 14, y_Y1 * 9))[..., None]
            snow_YX1 = (np.ones_like(peak_YX) if scene.snow else np.zeros_like(peak_YX))[..., None]
            colour_YX3 = (snow_YX1 * (228.0, 234.0, 244.0) + (1 - snow_YX1) * rock) * tone_YX1 * light
            image_YX3 = _over(image_YX3, colour_YX3, _edge(y_Y1 - ridge_1X, height))
    ground_1X = horizon + 0.02 * _noise1(seed + 21, x_1X * 2.5)
    tone_YX1 = (0.82 + 0.36 * _noise2(seed + 22, x_1X * 9, y_Y1 * 26))[..., None]
    grass = (
        np.array([226.0, 232.0, 240.0]) if scene.snow else np.array([84.0, 128.0, 52.0]) * random.uniform(0.85, 1.15)
    )
    image_YX3 = _over(image_YX3, grass * tone_YX1 * light, _edge(y_Y1 - ground_1X, height))
    if scene.water:
        shore_1X = horizon + 0.17 + 0.035 * _noise1(seed + 31, x_1X * 1.8)
        mirror_Y1 = np.clip(2 * (horizon + 0.1) - y_Y1, 0, 1)
        ripple_YX1 = (0.9 + 0.2 * _noise2(seed + 32, x_1X * 6, y_Y1 * 60))[..., None]
        tint = np.array([0.62, 0.78, 0.9])
        image_YX3 = _over(
            image_YX3, _gradient(scene, mirror_Y1, horizon) * tint * ripple_YX1, _edge(y_Y1 - shore_1X, height)
        )
    grain_YX3 = np.random.default_rng([seed, 2, frame]).normal(0, 2.0, image_YX3.shape)
    return np.clip(np.rint(image_YX3 + grain_YX3), 0, 255).astype(np.uint8)


def _gradient(scene: Scene, y_Y1: Field, horizon: float) -> Field:
    """Return the colour of the open sky ``[Y, 1, 3]``."""
    top, bottom = (np.array(colour, float) for colour in _SKY[scene.sky])
    share_Y11 = np.clip(y_Y1 / horizon, 0, 1)[..., None]
    colour_Y13: Field = ((1 - share_Y11) * top + share_Y11 * bottom) * _LIGHT[scene.time]
    return colour_Y13


def _sky(scene: Scene, random: np.random.Generator, y_Y1: Field, x_1X: Field, horizon: float) -> Field:
    cloud_seed = int(random.integers(1 << 30))
    cover_YX = _noise2(cloud_seed, x_1X * 3, y_Y1 * 8) * 0.6 + _noise2(cloud_seed + 1, x_1X * 8, y_Y1 * 20) * 0.4
    cloud_YX1 = (np.clip((cover_YX - 0.52) * 4, 0, 1) * random.uniform(0.2, 0.6))[..., None]
    sky_YX3 = np.broadcast_to(_gradient(scene, y_Y1, horizon), (y_Y1.shape[0], x_1X.shape[1], 3))
    paler_YX3 = sky_YX3 + 0.5 * (255.0 * _LIGHT[scene.time] - sky_YX3)
    image_YX3 = _over(sky_YX3, paler_YX3, cloud_YX1[..., 0])
    place = random.uniform(0.15, 0.85)
    if scene.time == "dusk":
        image_YX3 = _disc(image_YX3, y_Y1, x_1X, (horizon - 0.05, place), 0.075, (255.0, 214.0, 120.0))
    if scene.time == "night":
        image_YX3 = _disc(image_YX3, y_Y1, x_1X, (random.uniform(0.1, 0.22), place), 0.05, (238.0, 238.0, 220.0))
    return image_YX3


def _disc(
    image_YX3: Field, y_Y1: Field, x_1X: Field, centre: tuple[float, float], radius: float, colour: tuple[float, ...]
) -> Field:
    away_YX = np.hypot(y_Y1 - centre[0], x_1X - centre[1])
    return _over(image_YX3, np.array(colour), np.clip((radius - away_YX) / 0.01 + 0.5, 0, 1))


def _over(below_YX3: Field, above_YX3: Field, share_YX: Field) -> Field:
    return below_YX3 + share_YX[..., None] * (above_YX3 - below_YX3)


def _edge(inside_YX: Field, height: int) -> Field:
    """Return the share of a pixel that is inside, from its distance to the line, for smooth edges."""
    return np.clip(inside_YX * height + 0.5, 0, 1)


def _hash(seed: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> Field:
    """Return a number in [0, 1) for each point of a lattice."""
    mixed = (a.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ (
        b.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
    )
    mixed ^= np.uint64((seed * 0x165667B19E3779F9) & 0xFFFFFFFFFFFFFFFF)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    value: Field = (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2.0**64
    return value


def _noise2(seed: int, x: Field, y: Field) -> Field:
    """Return smooth noise in [0, 1): values of a lattice, interpolated."""
    x, y = np.broadcast_arrays(x, y)
    x0, y0 = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    u, v = _smooth(x - x0), _smooth(y - y0)
    top = _hash(seed, x0, y0) * (1 - u) + _hash(seed, x0 + 1, y0) * u
    bottom = _hash(seed, x0, y0 + 1) * (1 - u) + _hash(seed, x0 + 1, y0 + 1) * u
    return top * (1 - v) + bottom * v


def _noise1(seed: int, x: Field) -> Field:
    return _noise2(seed, x, np.zeros_like(x))


def _ridges(seed: int, x: Field) -> Field:
    """Return a jagged line in [0, 1]: noise of four sizes, folded to make peaks."""
    total = sum(0.5**n * (1 - np.abs(2 * _noise1(seed + 97 * n, x * 2.0**n) - 1)) for n in range(4))
    return np.asarray(total / 1.875)


def _smooth(share: Field) -> Field:
    return share * share * (3 - 2 * share)
