"""`derm-t2im serve`."""

from __future__ import annotations

import importlib.util
import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from derm_t2im.errors import UserError

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
KEY_LENGTH = 16


def serve(
    model: Annotated[
        Path | None,
        typer.Option(envvar="DERM_T2IM_MODEL",
                     help="Exported ONNX file; default: the one in models/onnx, if there is one."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs an API key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="DERM_T2IM_API_KEY", help="Key that clients must send. Others may see it on the command "
                     "line: better by the variable or a file.", show_envvar=True),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File that holds the key.")] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Most bytes of a request.")] = 32 * 1024**2,
    max_pixels: Annotated[int, typer.Option(min=1, help="Most pixels of an image.")] = 40_000_000,
    max_images: Annotated[int, typer.Option(min=1, help="Most images of a request.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Most images held at a time; more are told 429.")] = 256,
    max_batch: Annotated[int, typer.Option(min=1, help="Most images per batch.")] = 32,
    max_wait_ms: Annotated[float, typer.Option(min=0, help="How long a batch waits for more images.")] = 5.0,
    device: Annotated[str, typer.Option(help="auto (CUDA where there is an NVIDIA device), cuda or cpu.")] = "auto",
    allow_cpu: Annotated[bool, typer.Option("--allow-cpu", help="Go on with the CPU if CUDA does not load.")] = False,
) -> None:  # fmt: skip
    """Answer predictions over HTTP, with a page to drop images on. Research only, not a medical device."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'{", ".join(missing)} missing: pip install "derm-t2im[serve]".')
    from derm_t2im.deploy.commands import default_model
    from derm_t2im.deploy.runtime import Predictor
    from derm_t2im.deploy.serve.limits import Limits

    limits = Limits(max_bytes, max_pixels, max_images, queue, max_batch, max_wait_ms)
    key = read_key(api_key, api_key_file)
    if not key and not is_loopback(host):
        raise UserError(
            f"--host {host} can be reached from elsewhere: give a key by the variable DERM_T2IM_API_KEY or "
            "--api-key-file, or listen on 127.0.0.1."
        )
    from derm_t2im.deploy.serve import server
    from derm_t2im.deploy.serve.app import Service
    from derm_t2im.progress import say

    chosen = model or default_model()
    predictor = Predictor(chosen, device=device, allow_cpu=allow_cpu)  # type: ignore[arg-type]
    say(f"{chosen} on {predictor.provider.removesuffix('ExecutionProvider')}. {predictor.card.intended_use}")
    server.run(Service(predictor, limits, key), host, port)


def read_key(given: str | None, file: Path | None) -> str:
    """The key from the option or the file; empty where neither is given.

    Raises:
        UserError: for both, a file that cannot be read, or a key that is empty, too short or not plain.
    """
    if file is None and given is None:
        return ""
    if file is not None and given is not None:
        raise UserError("give the key once: by --api-key-file, or by DERM_T2IM_API_KEY (--api-key).")
    try:
        key = (given if file is None else file.read_text()).strip()  # type: ignore[union-attr]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file {file} cannot be read: {getattr(error, 'strerror', error)}.") from None
    if len(key) < KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(
            f"the API key must be at least {KEY_LENGTH} plain characters without blanks; make one with "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`."
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
