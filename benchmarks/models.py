"""Base models for the generator's benchmarks: the embedded one, or an architecture with random weights.

python benchmarks/models.py sd15 FOLDER    writes one, for several benchmarks
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from derm_t2im.diffusion import architecture

TINY = architecture.Sizes(image=64, vae_widths=(8, 8, 8, 8), vae_groups=2, latent_channels=4, unet_widths=(16, 32),
                          unet_attention=(True, True), text_width=16, text_hidden=32)  # fmt: skip
NAMES = ("mini", *(name for name in architecture.PRESETS if name != "mini"), "tiny")


def folder(name: str, keep: Path | None = None) -> str:
    """A diffusers folder: of the embedded base for ``mini``, else of random weights; ``name`` may be such a folder.

    It is removed at the end, unless it is to be kept.

    ``sd15`` has the sizes of Stable Diffusion 1.5 at 512 px; ``tiny`` rehearses the same code within a second.
    """
    if name == "mini":
        return "models/base/mini"
    if Path(name).is_dir():
        return name
    if name not in NAMES:
        raise SystemExit(f"--architecture {name!r}: neither a folder nor one of {', '.join(NAMES)}.")
    sizes = TINY if name == "tiny" else architecture.PRESETS[name]
    torch.manual_seed(0)
    vae, words, unet = (
        architecture.autoencoder(sizes),
        architecture.tokenizer(longest=sizes.tokens),
        architecture.unet(sizes),
    )
    vae.register_to_config(scaling_factor=0.18215)
    with torch.no_grad():  # residual branches start at zero, and arithmetic with zeros is no measurement
        for weight in unet.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=0.02)
    out = keep or Path(tempfile.mkdtemp(prefix="derm-t2im-"))
    if not keep:
        atexit.register(shutil.rmtree, out, ignore_errors=True)
    pipe = architecture.pipeline(vae, architecture.text_encoder(words, sizes), words, unet)
    pipe.save_pretrained(out, safe_serialization=True)
    return str(out)


if __name__ == "__main__":
    print(folder(sys.argv[1], Path(sys.argv[2])))
