"""What comes in through imaging.io, and with what reason it is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from derm_t2im.imaging import io

RNG = np.random.default_rng(0)
PICTURE = cv2.resize(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)


def refusal(path: Path, **limits: int) -> str:
    with pytest.raises(io.ImageError) as caught:
        io.read_rgb(path, **limits)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.bmp", "a.tif", "a.webp"])
def test_lossless_formats_come_back_as_they_are(tmp_path: Path, name: str) -> None:
    Image.fromarray(PICTURE).save(tmp_path / name, lossless=True)
    np.testing.assert_array_equal(io.read_rgb(tmp_path / name), PICTURE)


def test_the_extension_is_not_believed(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(io.read_rgb(tmp_path / "a.jpg"), PICTURE)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_bilevel_and_palette_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PICTURE).convert(mode)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(io.read_rgb(tmp_path / "a.png"), np.array(image.convert("RGB")))


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    alpha = np.full((48, 64, 1), 255, np.uint8)
    alpha[:, :32] = 0
    Image.fromarray(np.concatenate([PICTURE, alpha], axis=2)).save(tmp_path / "a.png")
    rgb = io.read_rgb(tmp_path / "a.png")
    assert (rgb[:, :32] == 255).all()
    np.testing.assert_array_equal(rgb[:, 32:], PICTURE[:, 32:])


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(PICTURE)
    exif = image.getexif()
    exif[0x0112] = 6  # to be shown turned by a quarter clockwise
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(io.read_rgb(tmp_path / "a.png"), np.rot90(PICTURE, -1))


def test_sixteen_bits_are_refused_whatever_the_colour(tmp_path: Path) -> None:
    for name, pixels in (("grey", PICTURE[..., 0].astype(np.uint16) * 257), ("rgb", PICTURE.astype(np.uint16) * 257)):
        for suffix in (".png", ".tif"):
            cv2.imwrite(str(tmp_path / (name + suffix)), pixels)
            assert refusal(tmp_path / (name + suffix)) in ("wrong_mode", "unreadable"), name + suffix
    assert refusal(tmp_path / "rgb.png") == "wrong_mode"


def test_cmyk_and_float_are_refused(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).convert("CMYK").save(tmp_path / "a.jpg")
    Image.fromarray(PICTURE[..., 0].astype(np.float32)).save(tmp_path / "b.tif")
    assert refusal(tmp_path / "a.jpg") == refusal(tmp_path / "b.tif") == "wrong_mode"


def test_animations_are_refused_and_still_gifs_are_not(tmp_path: Path) -> None:
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.gif")
    assert refusal(tmp_path / "a.gif") == "animated"
    assert io.read_rgb(tmp_path / "b.gif").shape == PICTURE.shape


def test_broken_files_have_reasons(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg", quality=95)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    assert refusal(tmp_path / "cut.jpg") == "truncated"
    assert refusal(tmp_path / "empty.jpg") == "empty"
    assert refusal(tmp_path / "text.jpg") == "unreadable"
    assert refusal(tmp_path / "none.jpg") == "missing_file"
    assert refusal(tmp_path) in ("missing_file", "unreadable")


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    at = data.index(b"IDAT")
    data[at + 20] ^= 0xFF
    (tmp_path / "a.png").write_bytes(data)
    assert refusal(tmp_path / "a.png") in ("unreadable", "truncated")


def test_a_bomb_is_judged_by_its_header(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert refusal(tmp_path / "bomb.png") == "too_large"


def test_limits_of_size(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    assert refusal(tmp_path / "a.png", max_pixels=64 * 48 - 1) == "too_large"
    assert refusal(tmp_path / "a.png", min_side=49) == "too_small"
    assert io.read_rgb(tmp_path / "a.png", max_pixels=64 * 48, min_side=48).shape == (48, 64, 3)


def test_a_stack_holds_images_of_one_size(tmp_path: Path) -> None:
    io.write_png(tmp_path / "a.png", PICTURE)
    io.write_png(tmp_path / "b.png", PICTURE[:, ::-1])
    stack = io.read_stack([tmp_path / "a.png", str(tmp_path / "b.png")])
    np.testing.assert_array_equal(stack, np.stack([PICTURE, PICTURE[:, ::-1]]))
    io.write_png(tmp_path / "c.png", PICTURE[1:])
    with pytest.raises(io.ImageError, match="wrong_size"):
        io.read_stack([tmp_path / "a.png", tmp_path / "c.png"])
    assert len(io.read_stack([])) == 0


def test_masks_are_written_as_black_and_white(tmp_path: Path) -> None:
    mask = PICTURE[..., 0] > 128
    io.write_png(tmp_path / "mask.png", mask)
    np.testing.assert_array_equal(io.read_rgb(tmp_path / "mask.png")[..., 0], mask * np.uint8(255))
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]
    with pytest.raises(ValueError, match="float64"):
        io.write_png(tmp_path / "x.png", np.zeros((4, 4)))


def test_square_takes_the_centre_and_antialiases() -> None:
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    assert (io.square(wide, 16) == 200).all()
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[:, ::2] = 254
    assert (io.square(lines, 32) == 127).all()
    assert io.square(lines[..., 0] > 0, 64).dtype == bool


@given(st.lists(st.text(min_size=1, max_size=12) | st.just("x" * 150), min_size=2, max_size=8, unique=True))
def test_file_names_are_safe_and_never_shared(ids: list[str]) -> None:
    names = [io.file_name(image_id, ".PNG") for image_id in ids]
    assert len({name.lower() for name in names}) == len(ids)
    for name in names:
        assert Path(name).name == name and name.endswith(".png") and not name.startswith(".") and len(name) < 128
