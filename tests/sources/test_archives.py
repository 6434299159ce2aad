"""HAM10000 straight from its zips, and zips that mean harm."""

from __future__ import annotations

import stat
import struct
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from derm_t2im import sources
from derm_t2im.errors import UserError
from derm_t2im.params.acquire import Acquire
from derm_t2im.sources import archives


def picture(seed: int, kind: str = "JPEG") -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def table(*names: str) -> str:
    rows = [f"L{k},{name},nv,histo,50.0,male,back" for k, name in enumerate(names)]
    return "\n".join(["lesion_id,image_id,dx,dx_type,age,sex,localization", *rows]) + "\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def collect(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    out = root.parent / "out"
    out.mkdir(exist_ok=True)
    values = {"source": "ham10000", "path": str(root), "external": {"source": "none"}}
    return sources.collect(Acquire.model_validate(values), "pool", out)


def reasons(bad: pd.DataFrame) -> dict[str, str]:
    return dict(zip(bad["image_id"], bad["reason"], strict=True))


def test_images_are_read_from_the_zips(root: Path) -> None:
    names = [f"ISIC_{k}" for k in range(6)]
    (root / "HAM10000_metadata.csv").write_text(table(*names, "ISIC_9"))
    for part in (1, 2):
        with zipfile.ZipFile(root / f"HAM10000_images_part_{part}.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
            for k in range(part - 1, 5, 2):
                zipped.writestr(f"HAM10000_images_part_{part}/{names[k]}.JPG", picture(k))
            zipped.writestr("__MACOSX/._ISIC_0.jpg", b"of no interest")
            zipped.writestr("ATTRIBUTION.txt", "text")
    (root / "ISIC_5.jpg").write_bytes(picture(5))
    (root / "ISIC_4.jpg").write_bytes(picture(44))  # unpacked beside the zip: the loose file is taken
    before = sorted(path.name for path in root.rglob("*"))
    rows, bad = collect(root)
    assert reasons(bad) == {"ISIC_9": "missing_file"}
    assert rows["image_id"].tolist() == names and rows["path"].str.endswith(".jpg").all()
    assert [Path(path).read_bytes() for path in rows["path"]] == [picture(k) for k in (0, 1, 2, 3, 44, 5)]
    assert sorted(path.name for path in root.rglob("*")) == before, "nothing is unpacked into the user's folder"


def test_the_same_name_in_two_zips_is_ambiguous(root: Path) -> None:
    (root / "HAM10000_metadata.csv").write_text(table("ISIC_0", "ISIC_1"))
    for part in (1, 2):
        with zipfile.ZipFile(root / f"{part}.zip", "w") as zipped:
            zipped.writestr("ISIC_0.jpg", picture(part))
            zipped.writestr(f"ISIC_{part}.jpg", picture(part))
    rows, bad = collect(root)
    assert rows["image_id"].tolist() == ["ISIC_1"] and reasons(bad) == {"ISIC_0": "ambiguous_file"}


def test_entries_that_lead_out_are_refused_and_named(root: Path) -> None:
    (root / "HAM10000_metadata.csv").write_text(table("good", "up", "abs", "drive", "back", "link", "both"))
    with zipfile.ZipFile(root / "a.zip", "w") as zipped:
        for name in ("good.jpg", "../../up.jpg", "/tmp/abs.jpg", "C:/drive.jpg", "..\\back.jpg", "../evil.jpg"):
            zipped.writestr(name, picture(1))
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(link, "/etc/hostname")
        zipped.writestr("../both.jpg", picture(2))
        zipped.writestr("both.jpg", picture(3))
    rows, bad = collect(root)
    by_id = rows.set_index("image_id")["path"]
    assert sorted(by_id.index) == ["both", "good"] and Path(by_id["both"]).read_bytes() == picture(3)
    found = reasons(bad)
    assert set(found) == {"up", "abs", "drive", "back", "link", "a.zip: ../evil.jpg", "a.zip: ../both.jpg"}
    assert set(found.values()) == {"outside_folder"} and bad["detail"].str.contains("the zip's entry").all()
    outside = [path for path in root.parent.rglob("*.jpg") if not path.is_relative_to(root.parent / "out/images/pool")]
    assert not outside and not Path("/tmp/abs.jpg").exists()


def test_bombs_are_refused_by_what_they_claim(root: Path) -> None:
    (root / "HAM10000_metadata.csv").write_text(table("bomb", "good", "small"))
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("bomb.jpg", bytes(8 * 2**20))
        zipped.writestr("good.jpg", picture(1))
        zipped.writestr("small.jpg", bytes(2**19))  # shrinks as well, and is of no harm
    rows, bad = collect(root)
    assert rows["image_id"].tolist() == ["good"] and reasons(bad) == {"bomb": "zip_bomb", "small": "unreadable"}
    assert "8388608" in bad.set_index("image_id")["detail"]["bomb"]


def _patch(path: Path, name: str, **fields: int) -> None:
    """Let the headers of an entry lie: in the central directory, which is what is believed."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    while data[at + 46 : at + 46 + len(name)] != name.encode():
        at = data.index(b"PK\x01\x02", at + 4)
    for field, value in fields.items():
        offset, kind = {"flags": (8, "<H"), "crc": (16, "<I"), "packed": (20, "<I"), "size": (24, "<I")}[field]
        struct.pack_into(kind, data, at + offset, value)
    path.write_bytes(data)


def test_a_bomb_with_a_lying_header_is_bounded_while_it_is_read(root: Path) -> None:
    (root / "HAM10000_metadata.csv").write_text(table("bomb", "good"))
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("bomb.jpg", bytes(64 * 2**20))
        zipped.writestr("good.jpg", picture(1))
    _patch(root / "a.zip", "bomb.jpg", size=1000)
    rows, bad = collect(root)
    assert rows["image_id"].tolist() == ["good"] and reasons(bad) == {"bomb": "unreadable"}
    assert not list((root.parent / "out").rglob("bomb*"))


def test_more_comes_out_than_the_bound(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count while reading holds by itself, whatever the header was believed to say."""
    (root / "HAM10000_metadata.csv").write_text(table("bomb", "good"))
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("bomb.jpg", bytes(8 * 2**20))
        zipped.writestr("good.jpg", picture(1))
    monkeypatch.setattr(archives, "_judge", lambda info: archives.Entry(info.filename))
    _, bad = collect(root)
    assert reasons(bad) == {"bomb": "zip_bomb"} and "unpacks to more" in bad["detail"].iloc[0]


def test_overlapping_entries_are_refused(root: Path) -> None:
    (root / "HAM10000_metadata.csv").write_text(table("a"))
    with zipfile.ZipFile(root / "a.zip", "w") as zipped:
        zipped.writestr("a.jpg", picture(1))
    _patch(root / "a.zip", "a.jpg", packed=10**6)
    with pytest.raises(UserError, match=r"a\.zip claims more bytes than it has"):
        collect(root)


def test_encrypted_and_damaged_entries_are_quarantined(root: Path) -> None:
    names = ["locked", "crc", "cut", "good"]
    (root / "HAM10000_metadata.csv").write_text(table(*names))
    with zipfile.ZipFile(root / "a.zip", "w") as zipped:
        for k, name in enumerate(names):
            zipped.writestr(f"{name}.jpg", picture(k)[: 300 if name == "cut" else None])
    _patch(root / "a.zip", "locked.jpg", flags=1)
    _patch(root / "a.zip", "crc.jpg", crc=1)
    rows, bad = collect(root)
    assert rows["image_id"].tolist() == ["good"]
    assert reasons(bad) == {"locked": "encrypted", "crc": "unreadable", "cut": "truncated"}
    assert "CRC" in bad.set_index("image_id")["detail"]["crc"]


@pytest.mark.parametrize("data", [b"", b"no zip at all", None], ids=["empty", "text", "cut"])
def test_a_broken_zip_is_one_clear_line(root: Path, data: bytes | None) -> None:
    (root / "HAM10000_metadata.csv").write_text(table("a"))
    with zipfile.ZipFile(root / "part.zip", "w") as zipped:
        zipped.writestr("a.jpg", picture(1))
    whole = (root / "part.zip").read_bytes()
    (root / "part.zip").write_bytes(whole[:-30] if data is None else data)
    with pytest.raises(UserError, match=r"part\.zip is no zip that can be read .*fetch it again") as caught:
        collect(root)
    assert "\n" not in str(caught.value)
