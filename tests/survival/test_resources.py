"""What runs out (memory, room, open files) is said in one line and makes no image bad."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from derm_t2im.errors import UserError, exhausted
from derm_t2im.imaging import io

# Reads an image again and again with a little more memory each time, until it can be read.
_SCARCE = """
import resource, sys
from pathlib import Path
from derm_t2im.errors import UserError
from derm_t2im.imaging import io
import cv2, numpy
from PIL import Image
Image.init()
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
for more in range(0, 400, 4):
    resource.setrlimit(resource.RLIMIT_AS, (size + (more << 20), hard))
    try:
        io.read_rgb(Path(sys.argv[1]))
    except UserError as error:
        print("UserError", str(error)[:13])
    except BaseException as error:
        print(type(error).__name__, error)
    else:
        print("read")
        break
"""


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_an_image_that_meets_no_memory_is_not_a_bad_image(tmp_path: Path, suffix: str) -> None:
    from PIL import Image

    file = tmp_path / f"large.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (2400, 2400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    done = subprocess.run([sys.executable, "-c", _SCARCE, str(file)], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said[-1] == "read", "with memory enough it is read"
    assert len(said) > 2 and set(said[:-1]) == {"UserError out of memory"}


def test_a_broken_image_is_still_a_bad_image(tmp_path: Path) -> None:
    file = tmp_path / "broken.png"
    io.write_png(file, np.zeros((64, 64, 3), np.uint8))
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(io.ImageError) as caught:
        io.read_rgb(file)
    assert caught.value.reason in ("truncated", "unreadable")


def test_too_many_open_files_are_no_bad_image(tmp_path: Path) -> None:
    file = tmp_path / "good.png"
    io.write_png(file, np.zeros((64, 64, 3), np.uint8))
    code = """
import resource, sys
from pathlib import Path
from PIL import Image
from derm_t2im.imaging import io
Image.init()
io.read_rgb(Path(sys.argv[1]))
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        held.append(open(sys.argv[1]))
except OSError:
    pass
io.read_rgb(Path(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
    assert "UserError: too many open files" in done.stderr


def test_a_file_that_torch_cannot_write_whole_is_a_full_disk(tmp_path: Path) -> None:
    code = """
import resource, signal, sys, torch
from derm_t2im.errors import exhausted
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    torch.save(torch.zeros(1_000_000), sys.argv[1])
except Exception as error:
    print(exhausted(error))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.pt")], capture_output=True, text=True, check=True
    )
    assert "make room and start again" in done.stdout


def _raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "out of memory"),
        (RuntimeError("can't start new thread"), "out of memory"),
        (RuntimeError("could not create a primitive"), "out of memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (_raised(ValueError("wrapped"), MemoryError()), "out of memory"),
    ],
)
def test_what_ran_out_is_recognised(error: BaseException, said: str) -> None:
    assert said in str(exhausted(error))


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOENT, "No such file"), UserError("out of memory")])
def test_other_errors_are_none_of_it(error: BaseException) -> None:
    assert exhausted(error) is None


def test_a_bit_turned_anywhere_in_a_manifest_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    import pandas as pd

    from derm_t2im import manifest

    file = tmp_path / "manifest.parquet"
    names = [f"image-{n:03d}" for n in range(60)]
    table = pd.DataFrame({"image_id": names, "path": names, "kind": "real", "label": "benign", "ita": np.arange(60.0)})
    manifest.write(table, file)
    good, data = manifest.read(file), file.read_bytes()
    noticed = 0
    for at in range(0, len(data), 3):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        file.write_bytes(broken)
        try:
            found = manifest.read(file)
        except UserError:
            noticed += 1
            continue
        assert set(found.columns) <= set(good.columns)
        pd.testing.assert_frame_equal(found, good[found.columns])
    assert noticed > len(data) / 12


def test_a_damaged_image_of_the_pipeline_is_one_line(tmp_path: Path) -> None:
    """Whatever stage meets it first."""
    code = """
import sys
from derm_t2im import cli
from derm_t2im.imaging.io import ImageError
def met() -> None:
    raise ImageError("truncated", "data/x.png: broken data stream")
cli.app.command("met")(met)
sys.argv = ["derm-t2im", "met"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "data/x.png" in done.stderr and "dvc repro" in done.stderr
