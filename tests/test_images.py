"""Reading images of every kind, and finding the unreadable ones before long work."""

import hashlib
import os
import struct
import warnings
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from coco_samples import gradient, save_image
from conftest import cases, refused
from PIL import ExifTags, Image, ImageOps

from ntt.data.images import MAX_PIXELS, check_images, depth_sample, image_digest, read_image, upright_size, white_level
from ntt.errors import DataError
from ntt.types import ImageRecord

PIXELS = gradient(20, 30)


def record(path: Path, height: int = 20, width: int = 30) -> ImageRecord:
    return ImageRecord(1, path.name, path, height=height, width=width)


def stored(path: Path, image: Image.Image | np.ndarray, orientation: int | None = None) -> Path:
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if orientation is None:
        picture.save(path)
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        picture.save(path, exif=exif)
    return path


def palette(colour: int) -> Image.Image:
    image = Image.new("P", (30, 20), colour)
    image.putpalette([9, 9, 9, 10, 20, 30])
    return image


ON_WHITE = {255: (0, 2, 3), 0: (255, 255, 255), 51: (204, 204, 205)}


@cases("name", "image", "expected")(
    ("a.png", Image.new("L", (30, 20), 70), (70, 70, 70)),
    ("a.png", Image.new("1", (30, 20), 1), (255, 255, 255)),
    ("a.png", palette(1), (10, 20, 30)),
    ("a.tiff", Image.new("CMYK", (30, 20), (255, 0, 0, 0)), (0, 255, 255)),
    # Transparency lies on white.
    *(("a.png", Image.new("RGBA", (30, 20), (0, 2, 3, opacity)), colour) for opacity, colour in ON_WHITE.items()),
    *(("a.png", Image.new("LA", (30, 20), (10, opacity)), (grey,) * 3) for opacity, grey in ((255, 10), (0, 255))),
)
def test_other_kinds_become_rgb(tmp_path, name, image, expected):
    pixels = read_image(record(stored(tmp_path / name, image)))
    assert (pixels.shape, pixels.dtype) == ((20, 30, 3), np.uint8)
    np.testing.assert_array_equal(pixels[3, 4], expected)


def test_transparent_palettes_and_animations(tmp_path):
    image = palette(1)
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=1)
    np.testing.assert_array_equal(read_image(record(tmp_path / "a.png"))[0, :2], [[9, 9, 9], [255, 255, 255]])
    # Of an animation the first picture is read.
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(record(tmp_path / "a.gif"))[0, 0], [255, 0, 0])


@cases("dtype", "values", "expected")(
    (np.uint16, [0, 100, 255], [0, 100, 255]),
    (np.uint16, [0, 256, 1024], [0, 16, 64]),  # 12 bits: 1024 * 255 / 4095 = 63.8
    *((np.uint16, [0, 2 ** (bits - 1), 2**bits - 1], [0, 128, 255]) for bits in (10, 12, 14, 16)),
    (np.uint16, [0, 0, 0], [0, 0, 0]),
    (np.int32, [0, 200_000, -7], [0, 255, 0]),
    (np.float32, [0.0, 0.5, 1.0], [0, 128, 255]),
    (np.float32, [0.0, 2.0, 255.0], [0, 2, 255]),
    (np.float32, [-1.0, 510.0, 1020.0], [0, 128, 255]),
    (np.float32, [0.0, 0.001, 0.002], [0, 128, 255]),  # black in the range 1
    (np.float32, [0.0, 0.0, 0.0], [0, 0, 0]),
    (np.float32, [np.nan, 0.0, 1.0], [0, 0, 255]),
)
def test_deep_grey_is_scaled_by_its_range(tmp_path, dtype, values, expected):
    path = stored(tmp_path / "a.tiff", np.array([values], dtype=dtype))
    np.testing.assert_array_equal(read_image(record(path, 1, 3))[0, :, 2], expected)


SQUARE = gradient(20, 20)


@cases("name", "image", "orientation", "size", "expected")(
    ("a.png", PIXELS, None, (20, 30), PIXELS),
    ("a.png", PIXELS, 6, (30, 20), np.rot90(PIXELS, k=-1)),
    ("a.png", PIXELS, 6, (20, 30), PIXELS),
    # Upright holds where the size does not tell, and TIFF files are always upright.
    ("a.png", SQUARE, 6, (20, 20), np.rot90(SQUARE, k=-1)),
    ("a.png", PIXELS, 3, (20, 30), PIXELS[::-1, ::-1]),
    ("a.tiff", PIXELS, 6, (30, 20), np.rot90(PIXELS, k=-1)),
)
def test_images_are_turned_as_the_annotations_mean_them(tmp_path, name, image, orientation, size, expected):
    path = stored(tmp_path / name, image, orientation)
    np.testing.assert_array_equal(read_image(record(path, *size)), expected)
    stored_size = image.shape[:2]
    assert upright_size(path) == (stored_size[::-1] if orientation == 6 else stored_size)


@cases("name", "orientation", "size", "text")(
    ("a.png", None, (30, 20), r"a\.png has 30 x 20 pixels, the annotation file says 20 x 30\. Use the image"),
    ("a.png", 6, (7, 5), "has 20 x 30 pixels once turned upright, the annotation file says 5 x 7"),
    ("a.tiff", 6, (20, 30), "has 20 x 30 pixels, the annotation file says 30 x 20"),
)
def test_another_size_than_annotated(tmp_path, name, orientation, size, text):
    with pytest.raises(DataError, match=text):
        read_image(record(stored(tmp_path / name, PIXELS, orientation), *size))


def test_files_that_cannot_be_read(tmp_path):
    for call in (read_image, image_digest):
        with pytest.raises(DataError, match=r"There is no image .*a\.png\. Add it"):
            call(record(tmp_path / "a.png"))
    (tmp_path / "a.png").mkdir()
    with pytest.raises(DataError, match=r"a\.png cannot be read: .* It must be a readable file"):
        read_image(record(tmp_path / "a.png"))
    (tmp_path / "b.png").write_text("not an image")
    with pytest.raises(DataError, match=r"b\.png is not an image in a format that can be read"):
        read_image(record(tmp_path / "b.png"))


def test_postscript_is_never_run_and_a_named_pipe_not_waited_for(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "a.eps")
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("started a program"))
    with pytest.raises(DataError, match=r"a\.eps is not an image in a format that can be read"):
        read_image(record(tmp_path / "a.eps"))
    os.mkfifo(tmp_path / "a.png")
    for call in (lambda r: check_images([r]), read_image, image_digest, lambda r: upright_size(r.path)):
        with pytest.raises(DataError, match=r"a\.png cannot be read: .*not a regular file"):
            call(record(tmp_path / "a.png"))


def truncated(path: Path, keep: float) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    save_image(path, noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


@cases("suffix")("jpg", "png", "gif", "bmp", "tiff", "webp", "avif", "jp2", "ppm")
@cases("full")(False, True)
def test_whole_images_pass_and_truncated_ones_are_found(tmp_path, suffix, full):
    check_images([record(save_image(tmp_path / f"whole.{suffix}", PIXELS))], full=full)
    path = truncated(tmp_path / f"a.{suffix}", 0.7)
    with pytest.raises(DataError, match=rf"a\.{suffix} is (damaged and cannot be decoded|not an image)"):
        check_images([record(path, 200, 300)], full=full)


def test_bytes_behind_the_end_mark_are_tolerated_and_other_damage_is_found(tmp_path):
    path = save_image(tmp_path / "a.jpg", PIXELS)
    path.write_bytes(path.read_bytes() + b"\0" * 9)
    check_images([record(path)])
    path = truncated(tmp_path / "a.png", 1.0)
    content = bytearray(path.read_bytes())
    content[-13] ^= 1  # of the checksum before the end
    path.write_bytes(content)
    check_images([record(path, 200, 300)])
    with pytest.raises(DataError, match="is damaged and cannot be decoded"):
        check_images([record(path, 200, 300)], full=True)
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    for call in (lambda: read_image(record(path, 200, 300)), lambda: check_images([record(path, 200, 300)])):
        with pytest.raises(DataError, match=r"a\.png is damaged and cannot be decoded"):
            call()


def test_images_beyond_the_limit_are_not_decoded(tmp_path):
    path = stored(tmp_path / "a.png", Image.new("1", (9460, 9460)))
    for call in (lambda: read_image(record(path, 9460, 9460)), lambda: check_images([record(path, 9460, 9460)])):
        with pytest.raises(DataError, match=rf"a\.png is too large .*Images of up to {MAX_PIXELS} pixels are read"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match=r"a\.png is too large \(9460 x 9460 pixels\)"):
            upright_size(path)


def test_all_problems_are_reported_at_once_and_a_wrong_folder_is_one(tmp_path):
    good = save_image(tmp_path / "good.png", PIXELS)
    (tmp_path / "text.png").write_text("x")
    records = [record(good), record(good, 4, 4), record(truncated(tmp_path / "cut.jpg", 0.5), 200, 300)]
    records += [record(tmp_path / "missing.png"), record(tmp_path / "text.png")]
    names = ("missing.png", "text.png", "says 4 x 4", "cut.jpg")
    with refused(DataError, "Some images cannot be used (4 problems):", *names):
        check_images(records)
    check_images([])
    with pytest.raises(DataError, match=r"^None of the 2 images exist, such as .*a\.png\. Is the folder right"):
        check_images([record(tmp_path / "a.png"), record(tmp_path / "b.png")])


def test_the_digest_is_that_of_the_bytes(tmp_path):
    path = save_image(tmp_path / "a.png", PIXELS)
    assert image_digest(record(path)) == hashlib.sha256(path.read_bytes()).hexdigest()


def png16(path: Path, values: np.ndarray) -> Path:
    """Write uint16 [H, W, channels] as a PNG of 16 bits per value, which Pillow cannot do."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour_type = {2: 4, 3: 2, 4: 6}[channels]
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def tiff16(path: Path, values: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, values, photometric="rgb", **options)
    return path


def ppm16(path: Path, values: np.ndarray, top: int = 65535) -> Path:
    path.write_bytes(b"P6\n%d %d\n%d\n" % (values.shape[1], values.shape[0], top) + values.astype(">u2").tobytes())
    return path


DEEP = PIXELS.astype(np.uint16) * 16


def test_deep_images_are_upright_and_lie_on_white(tmp_path):
    path = png16(tmp_path / "a.png", np.dstack([DEEP, np.full((20, 30), 4095, np.uint16)]))
    np.testing.assert_array_equal(read_image(record(path)), read_image(record(png16(tmp_path / "b.png", DEEP))))
    opacity = np.full((20, 30, 1), 65535, np.uint16)
    opacity[:10] = 0
    for colours in (DEEP, DEEP[..., :1]):
        pixels = read_image(record(png16(tmp_path / "a.png", np.concatenate([colours, opacity], axis=2))))
        assert (pixels[:10] == 255).all()
        np.testing.assert_array_equal(pixels[10:, :, 0], PIXELS[10:, :, 0])
    path = tiff16(tmp_path / "a.tiff", DEEP, extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(read_image(record(path, 30, 20)), np.rot90(PIXELS, k=-1))


@cases("dtype")(np.uint16, np.float32)
@cases("values", "options")(
    (DEEP[..., 0], {"photometric": "miniswhite"}), (DEEP.transpose(2, 0, 1), {"planarconfig": "separate"})
)
def test_tiff_files_that_pillow_decodes_wrongly(tmp_path, dtype, values, options):
    tifffile.imwrite(tmp_path / "a.tif", values.astype(dtype), **({"photometric": "rgb"} | options))
    with pytest.raises(DataError, match=r"a\.tif is .*TIFF|not an image in a format that can be read"):
        check_images([record(tmp_path / "a.tif")])


@cases("image", "text")(
    (Image.new("RGBA", (30, 20), (1, 2, 3, 0)), "shows nothing: all its pixels are 255 of 255"),
    (np.full((20, 30), -5, np.int32), "100 % of the pixels are negative and read as black"),
    (np.linspace(-1, 1, 600, dtype=np.float32).reshape(20, 30), "50 % of the pixels are negative"),
)
def test_pixels_that_come_out_blank_are_named(tmp_path, image, text, caplog):
    path = stored(tmp_path / "a.tiff", image)
    white_level([path])
    read_image(record(path))
    assert text in caplog.text


@cases("suffix", "write")(
    *(("png", png16), ("ppm", ppm16), ("ppm", partial(ppm16, top=4095)), ("tiff", tiff16)),
    *(("tiff", partial(tiff16, **options)) for options in ({"compression": "zlib"}, {"byteorder": ">"})),
)
def test_twelve_bits_in_rgb_of_sixteen(tmp_path, suffix, write):
    path = write(tmp_path / f"a.{suffix}", DEEP)
    check_images([record(path)], full=True)
    np.testing.assert_array_equal(read_image(record(path)), PIXELS)
    np.testing.assert_array_equal(read_image(replace(record(path), white_level=8191.0)), PIXELS // 2)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="is damaged"):
        check_images([record(path)])


def test_one_white_level_for_a_data_set(tmp_path, caplog):
    """Neither a dark image nor a hot pixel changes how bright an image is beside the others."""
    grey = np.linspace(0, 3000, 2000).reshape(40, 50).astype(np.uint16)
    hot, dark = grey.copy(), grey // 16
    hot[3, 4] = 65535
    records = [
        record(stored(tmp_path / f"{name}.png", image), 40, 50)
        for name, image in {"a": grey, "hot": hot, "dark": dark, "flat": grey * 0}.items()
    ]
    records += [record(save_image(tmp_path / "8bit.png", PIXELS)), record(tmp_path / "missing.png")]
    level = white_level(depth_sample(records))
    assert level == 4095
    a, hot_pixels, dark_pixels = (read_image(replace(each, white_level=level)) for each in records[:3])
    np.testing.assert_array_equal(a[4:], hot_pixels[4:])
    assert (a.max(), dark_pixels.max()) == (187, 11)
    assert white_level(depth_sample(records[4:])) is None
    assert image_digest(replace(records[0], white_level=level)) != image_digest(records[0])
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "f.tiff")
    assert white_level([records[0].path, tmp_path / "f.tiff"]) is None
    assert "Set dataset.white_level" in caplog.text


def test_references_of_12_bits_and_targets_of_16(tmp_path, caplog):
    images = (np.full((8, 8), value, np.uint16) for value in (3000, 12000, 60000))
    low, middle, high = (stored(tmp_path / f"{index}.png", image) for index, image in enumerate(images))
    assert white_level([low], [middle]) == 16383
    assert not caplog.text
    assert white_level([low], [high]) == 65535
    assert "0 to 4095 and 0 to 65535" in caplog.text


@cases("orientation")(*range(2, 9))
def test_orientations_that_the_size_does_not_tell(tmp_path, orientation, caplog):
    side = gradient(20, 20 if orientation > 4 else 30)
    path = stored(tmp_path / "a.png", side, orientation)
    turned = np.array(ImageOps.exif_transpose(Image.open(path)))
    ambiguous = record(path, *side.shape[:2])
    np.testing.assert_array_equal(read_image(ambiguous), turned)
    np.testing.assert_array_equal(read_image(replace(ambiguous, orientation="upright")), turned)
    as_stored = replace(ambiguous, orientation="stored")
    np.testing.assert_array_equal(read_image(as_stored), side)
    assert image_digest(as_stored) != image_digest(ambiguous)
    check_images([as_stored, replace(ambiguous, orientation="upright")])
    assert not caplog.text
    check_images([ambiguous])
    assert "1 image(s), such as" in caplog.text
    assert "dataset.orientation=stored" in caplog.text


def test_content_of_another_format_than_the_ending_is_named(tmp_path, caplog):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", format="JPEG")
    Image.fromarray(PIXELS).save(tmp_path / "a.jfif", format="JPEG")
    check_images([record(tmp_path / "a.jfif")])
    assert not caplog.text
    check_images([record(tmp_path / "a.png"), record(tmp_path / "a.png")])
    assert "2 image(s), such as" in caplog.text
    assert "are of another format than their suffix suggests" in caplog.text


def test_further_pages_are_named(tmp_path, caplog):
    page = Image.fromarray(PIXELS)
    page.save(tmp_path / "preview.jpg", format="MPO", save_all=True, append_images=[page.rotate(180)])  # as phones do
    check_images([record(tmp_path / "preview.jpg")])
    assert not caplog.text
    stacks = [tmp_path / f"stack.{kind}" for kind in ("tif", "gif", "png", "webp")]
    for path in stacks:
        page.save(path, save_all=True, append_images=[page.rotate(180)])
    check_images([record(path) for path in stacks])
    assert "4 image(s), such as" in caplog.text
    assert "hold several pictures: only the first is read" in caplog.text
