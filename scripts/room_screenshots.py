"""Pictures of the App for docs/curation.md: `python scripts/room_screenshots.py PROJECT [FOLDER]`.

PROJECT is a folder in which the pipeline has run; FOLDER is docs/images unless given.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.curation import headless  # noqa: E402

SIZE = (1600, 1000)
SHOWN = (1280, 800)
LOOKERS = "[...document.querySelectorAll('[data-cy=looker]')].map(one => one.getBoundingClientRect())"
PICTURES = """[...document.querySelectorAll('img[src*="media?filepath"]')].filter(one => one.naturalWidth > 0)"""


def shoot(page: headless.Browser, path: Path) -> None:
    """The page as a small PNG."""
    page.hover(5, 5)
    time.sleep(3)
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(Path(file.name))
        small = Image.open(file.name).convert("RGB").resize(SHOWN, Image.Resampling.LANCZOS)
        # A PNG of 256 colours is half as large; Pillow dithers only onto a palette that it is given.
        palette = small.quantize(256, Image.Quantize.FASTOCTREE)
        small.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


def show(page: headless.Browser, url: str, view: str = "") -> None:
    """Open a saved view, without advertisements."""
    page.open(f"{url}datasets/curated" + (f"?view={view}" if view else ""))
    page.wait_for(f"{LOOKERS}.length > 6", 180)
    time.sleep(6)
    page.run("[...document.querySelectorAll('button')].find(one => one.innerText.trim() == 'Dismiss')?.click()")


def main() -> None:
    """Make all pictures."""
    project = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "images"
    code = "from derm_t2im.cli import main; main()"
    command = [sys.executable, "-c", code, "browse", "--no-open", "--reviewer", "ann"]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = next(found[1] for line in process.stderr if (found := re.search(r"images at (http://\S+)", line)))
    try:
        with headless.Browser(*SIZE) as page:
            show(page, url, "near-copies")
            shoot(page, folder / "curation-copies.png")
            show(page, url, "kept")
            page.tick(0)
            page.tick(3)
            page.wait_for(f"{PICTURES}.length >= 4", 60)
            shoot(page, folder / "curation-room.png")
            page.press("Discard")
            page.press("Blurred")
            shoot(page, folder / "curation-discard.png")
    finally:
        process.send_signal(signal.SIGKILL)  # what was tagged here is nobody's decision
        process.communicate()


if __name__ == "__main__":
    main()
