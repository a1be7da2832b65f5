"""Tones and colors of images: profiles, deep samples, transparency, all into 8-bit sRGB."""

import functools
import io
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImagePalette, UnidentifiedImageError

_BACKGROUND: Final = (255, 255, 255, 255)
BITS, PHOTOMETRIC, MAX_SAMPLE = 258, 262, 281
"""Tags of TIFF."""
_COLORS, _INKS, _EXTRA_SAMPLES, _KIND, _SUBSAMPLING = 320, 332, 338, 339, 530
SHALLOWER: Final = "samples of more than 8 bits become 8"
FLOATS: Final = "its floats are taken to be encoded as sRGB is, not linear light"
NEARLY_BLACK: Final = (
    "it is nearly black, perhaps since few of its bits are used, and the lower ones are lost: "
    "save it with 8 bits, or as a PNG or TIFF of 16"
)
CONVERTED: Final = "its color profile is turned into sRGB"
UNUSABLE: Final = "its color profile cannot be used, its colors are taken as they are"
ANOTHER: Final = "its color profile is {}, its colors are taken as they are"
_SRGB_PRIMARIES: Final = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
"""White, red, green and blue, x and y of each, as cHRM tells them."""
NOT_ALL: Final = "{} is taken to be {:g} in 16 bits, the end of its values"
_OTHER_ORDER: Final = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def is_deep(image: Image.Image) -> bool:
    """Say whether the file has more than 8 bits a sample, which are lost."""
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS, (1,))  # type: ignore[attr-defined]
        return bool(max(bits) > 8)
    if image.mode.startswith("I") or image.mode == "F":
        return True
    return any("16" in str(tile.args) for tile in getattr(image, "tile", []) if image.format == "PNG")


def settle(image: Image.Image) -> None:
    """Set right what Pillow takes wrongly of an image that is open and not loaded yet.

    Raises:
        PIL.UnidentifiedImageError: if it would misread the pixels.
    """
    opened: Any = image
    if image.format == "WEBP" and opened.is_animated:
        opened.rawmode = opened._mode = "RGBA"  # what no frame covers lets through, whatever the header says
    elif image.format == "PNG" and (levels := {"L;2": 85, "L;4": 17}.get(_raw_mode(image))) is not None:
        if "transparency" in image.info:
            image.info["transparency"] *= levels  # as Pillow does with the samples
    elif image.format == "TIFF":
        tags: Any = opened.tag_v2
        colors = tags.get(_COLORS, ())
        if image.mode in ("P", "PA") and max(colors, default=256) < 256:
            image.palette = ImagePalette.raw("RGB;L", bytes(colors))  # of 8 bits, not 16
        if (
            (image.mode == "L" and 2 in tags.get(_KIND, ()))
            or (image.mode == "YCbCr" and tags.get(_SUBSAMPLING, (2, 2)) != (1, 1))
            or (image.mode == "CMYK" and tags.get(_INKS, 1) != 1)
        ):
            raise UnidentifiedImageError("of a kind that Pillow misreads")


def to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Return an image as 8-bit sRGB over white; what was changed that a user may want to know is added to ``notes``."""
    profile = image.info.get("icc_profile")
    gamma = None if profile else _gamma(image, notes)
    if SHALLOWER in notes and _nearly_black(image):
        notes.append(NEARLY_BLACK)
    if image.mode.startswith("I") or image.mode == "F":
        image, gamma = _deep_gray(image, notes, gamma), None
    if gamma is not None:
        image = encoded(image, gamma)
    if image.mode == "LAB":
        return applied(_lab_to_srgb(), image)
    if image.has_transparency_data:
        whole = straight(image)
        if profile:
            colors = _in_srgb(whole.convert("RGB"), profile, notes)
            whole = Image.merge("RGBA", (*colors.split(), whole.getchannel("A")))
        paper = Image.new("RGBA", whole.size, _BACKGROUND)
        return Image.alpha_composite(paper, whole).convert("RGB")
    return _in_srgb(image, profile, notes)


def lets_through(image: Image.Image) -> bool:
    """Say whether an image lets its background through anywhere."""
    if image.mode.startswith(("I", "F")):
        return bool(np.any(np.asarray(image) == image.info.get("transparency", -1)))
    if not image.has_transparency_data:
        return False
    extremes: Any = straight(image).getchannel("A").getextrema()
    return bool(extremes[0] != 255)


def _gamma(image: Image.Image, notes: list[str]) -> float | None:
    """Return the exponent of light in the samples of a PNG that says it and nothing better; None where it is sRGB's.

    Within 5 % of 1/2.2 it is taken for sRGB, as libpng and viewers do.
    """
    if image.format != "PNG" or "srgb" in image.info:
        return None
    primaries = image.info.get("chromaticity")
    if primaries and max(abs(a - b) for a, b in zip(primaries, _SRGB_PRIMARIES, strict=True)) > 0.01:
        notes.append("its primaries (cHRM) are not those of sRGB, and taken for them")
    gamma = float(image.info.get("gamma") or 0)
    if gamma <= 0 or abs(gamma * 2.2 - 1) < 0.05:
        return None
    notes.append(f"its gamma of {gamma:g} is turned into sRGB's")
    return gamma


def _srgb_of(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return light in [0, 1] as sRGB encodes it (IEC 61966-2-1)."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def encoded(image: Image.Image, gamma: float) -> Image.Image:
    """Return an image of 8 bits whose samples are light to the power of ``gamma`` with sRGB's instead."""
    whole = straight(image) if image.has_transparency_data else image.convert("RGB")
    table = np.rint(255 * _srgb_of((np.arange(256) / 255) ** (1 / gamma))).astype(int).tolist()
    return whole.point(3 * table + list(range(256)) * (len(whole.getbands()) - 3))


def straight(image: Image.Image) -> Image.Image:
    """Return an image with transparency as RGBA."""
    # RGBa and La hold colors multiplied by alpha; Pillow turns them back only into their own kind.
    return image.convert({"RGBa": "RGBA", "La": "LA"}.get(image.mode, "RGBA")).convert("RGBA")


def _in_srgb(image: Image.Image, profile: object, notes: list[str]) -> Image.Image:
    """Return the image as RGB, its colors turned from those of its profile into sRGB."""
    if not isinstance(profile, bytes) or not profile:
        return image.convert("RGB")
    try:
        mode, transform = to_srgb(profile)
    except ValueError:
        notes.append(UNUSABLE)
        return image.convert("RGB")
    if transform is None:
        return image.convert("RGB")
    if mode == "CMYK" and image.mode != "CMYK":
        notes.append(ANOTHER.format("one of CMYK"))
        return image.convert("RGB")
    if mode == "L" and image.mode in ("RGB", "P"):
        image = image.convert("RGB")
        if any(channel.tobytes() != image.getchannel(0).tobytes() for channel in image.split()[1:]):
            notes.append(ANOTHER.format("one of gray"))
            return image
    if mode != "CMYK" and image.mode == "CMYK":
        notes.append(ANOTHER.format("not one of CMYK"))
        return image.convert("RGB")
    notes.append(CONVERTED)
    return applied(transform, image.convert(mode))


def applied(transform: Any, image: Image.Image) -> Image.Image:
    """Return what a PIL.ImageCms transform makes of an image."""
    made: Image.Image = transform.apply(image)
    return made


@functools.lru_cache(maxsize=8)
def to_srgb(profile: bytes) -> tuple[str, Any]:
    """Return the mode that a color profile is for, and a PIL.ImageCms transform to sRGB in 8 bits.

    The transform is None where it changes no color by more than two levels: many files carry sRGB in slightly other
    words. Colors out of reach are clipped (relative colorimetric, black point compensated), as most viewers do.
    """
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"no profile: {error}") from error
    if mode == "CMYK":
        return mode, transform
    levels = np.arange(0, 256, 15 if mode == "RGB" else 1, dtype=np.uint8)
    samples = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
    plain = Image.fromarray(samples)
    after = np.asarray(transform.apply(plain), np.int64)
    return mode, None if np.abs(after - np.asarray(plain.convert("RGB"))).max() <= 2 else transform


@functools.lru_cache(maxsize=1)
def _lab_to_srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def is_deep_color(image: Image.Image) -> bool:
    """Say whether samples of color have 16 bits, of which Pillow will keep the upper 8; the image is not loaded yet."""
    return _raw_mode(image).startswith(("RGB;16", "RGBX;16", "RGBA;16", "RGBa;16", "LA;16", "CMYK;16"))


def _raw_mode(image: Image.Image) -> str:
    """Return how the samples lie in the file."""
    tiles: list[Any] = getattr(image, "tile", [])
    said = tiles[0].args if tiles else ""
    return said if isinstance(said, str) else str(said[0])


def _unpack_as(image: Image.Image, mode: str) -> npt.NDArray[np.uint8]:
    """Return the samples (Y, X, samples) of an image that is not loaded yet, taken to lie as ``mode`` says."""
    loaded: Any = image
    loaded.tile = [
        tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:])) for tile in loaded.tile
    ]
    return np.asarray(image)


def upper_bytes(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the bytes that Pillow keeps of an image of `is_deep_color`, (Y, X, samples); it is not loaded yet.

    Colors multiplied by alpha stay so: Pillow would divide them by what is left of it.
    """
    return _unpack_as(image, _raw_mode(image).replace("RGBa", "RGBA"))


def lower_bytes(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the bytes that Pillow drops of an image of `is_deep_color`, (Y, X, samples); it is not loaded yet."""
    mode, gray = _raw_mode(image).replace("RGBa", "RGBA"), _raw_mode(image).startswith("LA")
    # Taken for samples of the other byte order, or gray and alpha of 16 bits for four of 8, it gives the others.
    other = _unpack_as(image, "RGBA" if gray else mode[:-1] + _OTHER_ORDER[mode[-1]])
    return other[..., [1, 1, 1, 3]] if gray else other


def with_white(image: Image.Image, lower: Callable[[], npt.NDArray[np.uint8]], notes: list[str]) -> Image.Image:
    """Return an image of `is_deep_color`, not loaded yet, with what stands for white in its 16 bits as white.

    ``lower`` gives its `lower_bytes`: they count where the upper ones alone are nearly black, or its file says what
    white or the transparent color is.
    """
    tags: Any = getattr(image, "tag_v2", {})
    mode = "RGBa" if tags.get(_EXTRA_SAMPLES) == (1,) else image.mode
    colors = slice(None) if mode in ("RGBa", "CMYK") else slice(3)  # of premultiplied colors alpha is the limit
    upper = upper_bytes(image)
    known: list[str] = []
    gamma = None if image.info.get("icc_profile") else _gamma(image, known)
    hole = image.info.get("transparency")
    white, made = 65535.0, upper
    if not (gamma is hole is None and upper[..., colors].max(initial=0) > 4095 >> 8 and not tags.get(MAX_SAMPLE)):
        values = upper.astype(np.uint16) << 8 | lower()
        white = white_of(values[..., colors], tags.get(MAX_SAMPLE))
        # Here, where dark tones still have all their bits.
        made = scaled(values[..., colors], white, gamma=gamma)
        if mode == "RGBA":
            alpha = values[..., 3:]
            made = np.dstack([made, scaled(alpha, white if alpha.max(initial=0) <= white else 65535)])
        elif hole is not None:
            mode, made = "RGBA", np.dstack([made, np.where((values == hole).all(-1), 0, 255).astype(np.uint8)])
    if made is upper and mode == image.mode:
        return image
    if white < 65535:
        notes.append(NOT_ALL.format("full ink" if mode == "CMYK" else "white", white))
    whole = Image.frombytes(mode, image.size, made.tobytes())
    whole.info = {key: value for key, value in image.info.items() if key != "transparency"}
    notes += known
    return whole


def _deep_gray(image: Image.Image, notes: list[str], gamma: float | None) -> Image.Image:
    """Scale 16-bit, 32-bit and float gray to 8 bits, with alpha where a gray is told to be transparent.

    `Image.convert` would clip at 255.
    """
    values = np.asarray(image)
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "F":
        white = 1.0
        notes += [] if image.info.get("icc_profile") else [FLOATS]
    elif values.size and int(values.max()) > 65535:
        raise ValueError("32-bit gray of unknown range; save it with 8 or 16 bits")
    else:
        white = white_of(values, tags.get(MAX_SAMPLE), bits=max(tags.get(BITS, (16,))))
        if white == 65535 and 2 in tags.get(_KIND, ()):
            white = 32767.0  # of signed samples
        if white < 65535:
            notes.append(NOT_ALL.format("white", white))
    made = Image.fromarray(scaled(values, white, inverted=tags.get(PHOTOMETRIC) == 0, gamma=gamma))
    if (hole := image.info.get("transparency")) is not None:
        made.putalpha(Image.fromarray(np.where(values == hole, 0, 255).astype(np.uint8)))
    return made


def _nearly_black(image: Image.Image) -> bool:
    """Say whether an image whose lower bits are lost looks like one that uses few of its bits."""
    if image.format not in ("JPEG2000", "PNG", "TIFF") or image.mode.startswith(("I", "F")):
        return False
    return 0 < max(most for _, most in image.convert("RGB").getextrema()) <= 16  # type: ignore[misc]


def white_of(values: npt.NDArray[Any], told: Any, *, bits: int = 16) -> float:
    """Return what stands for white in 16 bits: cameras and scanners put 12, sometimes 8, bits there unscaled.

    ``told`` is what the file says of the largest value, of each sample or of all, or None; ``bits`` are those of each
    sample.
    """
    most = int(values.max(initial=0))
    said = (1 << bits) - 1 if 8 < bits < 16 else max(told) if isinstance(told, tuple) else told or 0
    if most <= said and said in {(1 << n) - 1 for n in range(8, 17)}:
        return float(said)
    return float(next((white for white in (255, 4095) if 0 < most <= white), 65535))


def scaled(
    values: npt.NDArray[Any], white: float, *, inverted: bool = False, gamma: float | None = None
) -> npt.NDArray[np.uint8]:
    """Return values from 0 to ``white`` as 8 bits; inverted, white is 0. Of a ``gamma``, they become sRGB's."""
    if values.size and not (float(values.min()) >= 0.0 and float(values.max()) <= white):
        raise ValueError(f"gray values outside 0..{white:g}")
    if values.dtype.kind == "f":
        made = np.rint(values.astype(np.float64) * (255.0 / white)).astype(np.uint8)
    else:  # by a table, without eight bytes a sample
        levels = np.arange(int(white) + 1) * (255.0 / white)
        if gamma is not None:
            levels = 255 * _srgb_of((levels / 255) ** (1 / gamma))
        made = np.rint(levels).astype(np.uint8)[values]
    return 255 - made if inverted else made
