from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of the embedded architecture with random weights."""
    import torch

    from derm_t2im.diffusion import architecture

    torch.manual_seed(0)
    words = architecture.tokenizer()
    vae = architecture.autoencoder()
    vae.register_to_config(scaling_factor=1.0)
    net = architecture.unet()
    with torch.no_grad():  # residual branches start at zero: an attention that does nothing cannot be tuned
        for weight in net.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=0.05)
    pipe = architecture.pipeline(vae, architecture.text_encoder(words), words, net)
    folder = tmp_path_factory.mktemp("base") / "tiny"
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder
