"""Generation settings in a PNG's text chunk ``parameters``, as the Stable Diffusion web UI writes and reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

#: Our name of a sampler -> the web UI's; others have none there and are written as they are.
SAMPLER_NAMES = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "plms": "PLMS",
    "ddim": "DDIM",
    "dpmpp_2m": "DPM++ 2M",
    "heun": "Heun",
    "DDIMParallel": "DDIM",
    "DEISMultistep": "DEIS",
    "DPMSolverSinglestep": "DPM++ 2S",
    "KDPM2AncestralDiscrete": "DPM2 a",
    "KDPM2Discrete": "DPM2",
    "LMSDiscrete": "LMS",
    "UniPCMultistep": "UniPC",
}


def describe(row: Mapping[str, Any] | pd.Series, size: int, lora_hash: str = "") -> str:
    """The text of the chunk for one row of the synthetic manifest; ``lora_hash`` is :func:`kohya.model_hash`."""
    settings = {
        "Steps": row["steps"],
        "Sampler": SAMPLER_NAMES.get(row["sampler"], row["sampler"]),
        "CFG scale": f"{row['guidance']:g}",
        "Seed": row["seed"],
        "Size": f"{size}x{size}",
        "Model hash": str(row["base_sha256"])[:10],
        **({"Lora hashes": f'"derm-t2im: {lora_hash[:12]}"'} if lora_hash else {}),
        "Version": "derm-t2im",
    }
    # The web UI knows neither, and draws another image without them: whoever reads the chunk must see that.
    if row["guidance_rescale"]:
        settings["CFG rescale"] = f"{row['guidance_rescale']:g}"
    if row["noise_mean"]:
        settings["Noise mean"] = str(row["noise_mean"]).strip("[]").replace(",", "")
    lines = [str(row["prompt"])]
    if row["negative_prompt"]:
        lines.append(f"Negative prompt: {row['negative_prompt']}")
    lines.append(", ".join(f"{key}: {value}" for key, value in settings.items()))
    return "\n".join(lines)


def parse(text: str) -> dict[str, str]:
    """Settings from the chunk's text: ``prompt``, ``negative_prompt`` and the web UI's own keys."""
    lines = text.strip().split("\n")
    last = lines.pop() if re.search(r"\bSteps: \d+", lines[-1]) else ""
    found = {key: value.strip('"') for key, value in re.findall(r'([A-Z][\w /-]*): ("[^"]*"|[^,]*)(?:, |$)', last)}
    body = "\n".join(lines)
    prompt, _, negative = body.partition("Negative prompt:")
    return {"prompt": prompt.strip(), "negative_prompt": negative.strip(), **found}


def write(path: Path, rgb: np.ndarray, text: str) -> None:
    """Write uint8 (h, w, 3) as PNG with the text chunk ``parameters``, whole or not at all."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", text)
    partial = path.with_name(f".{path.name}.partial")
    Image.fromarray(rgb).save(partial, "PNG", pnginfo=info)
    partial.replace(path)


def read(path: Path) -> dict[str, str]:
    """Settings in the chunk ``parameters`` of a PNG; empty where it has none."""
    from PIL import Image

    with Image.open(path) as image:
        text = image.info.get("parameters", "")
    return parse(text) if text else {}
