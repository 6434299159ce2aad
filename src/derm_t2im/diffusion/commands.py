"""`derm-t2im base train`."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from derm_t2im import paths
from derm_t2im.errors import UserError

# What a base consists of: a folder with anything else in it is not ours to replace.
PARTS = {"model_index.json", "training.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"}
PHANTOMS = 24_000
LEARNABLE = ("train", "unused")


def base_train(
    manifest: Annotated[
        list[Path] | None,
        typer.Option(
            help="Manifest of own images, such as data/splits/manifest.parquet; may be repeated. "
            "Default: phantoms of no clinic."
        ),
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Learn from this split, train or unused; may be repeated. Default: train.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Learn from all images of the manifests; none is left to test on.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; default models/base/own, for phantoms and a preset models/base/PRESET."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Sizes: mini (default, 64 px), small (128 px), sd15 (512 px).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of sizes in the place of the preset's.")] = None,
    init: Annotated[
        Path | None, typer.Option(help="Go on from this base and its sizes instead of random weights.")
    ] = None,
    autoencoder: Annotated[Path | None, typer.Option(help="Take the autoencoder of this base as it is.")] = None,
    images: Annotated[
        int | None, typer.Option(min=64, help=f"Phantoms to learn from; default {PHANTOMS}. Not with --manifest.")
    ] = None,
    vae_steps: Annotated[int, typer.Option(min=1)] = 3000,
    unet_steps: Annotated[int, typer.Option(min=1)] = 3000,
    vae_batch: Annotated[int, typer.Option(min=2)] = 16,
    unet_batch: Annotated[int, typer.Option(min=1)] = 48,
    rate: Annotated[float, typer.Option(min=1e-4, max=10, help="Factor on the learning rates.")] = 1.0,
    seed: int = 0,
    force: Annotated[bool, typer.Option(help="Replace a base that is there.")] = False,
) -> None:
    """Train a base model: the embedded one on phantoms (about an hour on two cores), or your own on your images."""
    _check(manifest, split, everything, preset, config, init, images)
    # Another base never takes the embedded one's place unasked.
    target = out or paths.BASE / ("own" if manifest or init or config else preset or "mini")
    _check_target(target, force)

    from derm_t2im import runtime, state
    from derm_t2im.diffusion import architecture, base, muon, own_images, pretrain, prompts, replay, sample
    from derm_t2im.progress import say

    base.quiet()
    device = runtime.device()
    sizes = architecture.sizes(preset or "mini", config)
    side, numbers = sizes.image, sizes.latent_channels * sizes.latent**2
    for option, folder in (("--init", init), ("--autoencoder", autoencoder)):
        if folder:
            pipe = _load(folder, option)
            if option == "--init":
                net = pipe.unet.config
                side, numbers = base.image_size(pipe), net.in_channels * net.sample_size**2
    plain = pretrain.Recipe()
    recipe = pretrain.Recipe(
        vae_steps, unet_steps=unet_steps, vae_batch=vae_batch, unet_batch=unet_batch, seed=seed,
        matrix_lr=plain.matrix_lr * rate, vector_lr=plain.vector_lr * rate, views=8 if manifest else plain.views,
    )  # fmt: skip
    about: dict[str, Any] = {"recipe": vars(recipe), "sizes": None if init else sizes.model_dump(mode="json")}
    about |= {
        name: state.hash_tree(folder) for name, folder in (("init", init), ("autoencoder", autoencoder)) if folder
    }
    words = None
    captions: list[str] | list[tuple[str, ...]]
    if manifest:
        found = own_images.collect(manifest, split or ["train"], everything, side, seed)
        pixels, captions, heldout = found.images, found.captions, found.heldout
        about["manifests"] = [state.hash_file(path) for path in manifest]
        about["pixels"] = hashlib.sha256(pixels.tobytes()).hexdigest()
        about["learned_from"] = [
            {"source": source, "licence": licence, "images": n}
            for (source, licence), n in sorted(found.sources.items())
        ]
        about |= {"split": "all" if everything else split or ["train"], "images": len(pixels)}
        if not init:
            words = architecture.tokenizer(sorted({said for row in captions for said in row}), sizes.tokens)
        say(f"base: {len(pixels)} images to learn from, {len(heldout)} of the validation split held out")
    else:
        from derm_t2im.sources import broad

        about["phantoms"] = images or PHANTOMS
    code = state.hash_code(architecture, muon, own_images, pretrain, prompts, replay, sample)
    work = state.work_folder("base", state.fingerprint(about, code))
    _check_room(work, 4 * numbers * recipe.views * (len(pixels) if manifest else about["phantoms"]))
    if not manifest:
        pixels, said = broad.collection(about["phantoms"], seed, side)
        captions, heldout = [pretrain.caption(s) for s in said], pixels[:0]
    made = pretrain.train(pixels, captions, recipe, work, autoencoder, sizes, init, words, device)
    if manifest:
        if len(heldout):
            about["heldout_psnr"] = pretrain.psnr(base.load(str(made), device=device), heldout)
            about["heldout_images"] = len(heldout)
            say(f"base: the autoencoder carries {len(heldout)} validation images with {about['heldout_psnr']:.1f} dB")
        state.write_json(made / "training.json", about)
    # The state folder and the target may lie on different disks.
    staged = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(made, staged)
    state.move_into_place(staged, target)
    state.discard(work)
    say(f"base: {target}")


def _check(
    manifest: list[Path] | None,
    split: list[str] | None,
    everything: bool,
    preset: str | None,
    config: Path | None,
    init: Path | None,
    images: int | None,
) -> None:
    """Options that contradict each other."""
    if not manifest and (split or everything):
        raise UserError("--split and --all choose among the images of a --manifest: name one.")
    if manifest and images is not None:
        raise UserError("--images is the number of phantoms; with --manifest choose images by --split or --all.")
    if split and everything:
        raise UserError("--all takes every split: leave out --split.")
    for name in split or ():
        if name not in LEARNABLE:
            raise UserError(
                f"--split {name!r}: allowed are {', '.join(LEARNABLE)}; what a base has learned is no test any more "
                "(--all learns from every image)."
            )
    if init and (preset or config):
        raise UserError("--init takes the sizes of its base: leave out --preset and --config.")


def _check_target(target: Path, force: bool) -> None:
    """Only a base may be replaced, and only if asked to."""
    if target.is_dir():
        other = sorted({entry.name for entry in target.iterdir()} - PARTS)
        if other:
            raise UserError(f"--out {target} holds other files ({', '.join(other[:3])}): choose another folder.")
        if not force and any(target.iterdir()):
            raise UserError(f"--out {target} holds a base: choose another folder, or say --force to replace it.")
    elif target.exists():
        raise UserError(f"--out {target} is a file: choose a folder.")


def _load(folder: Path, option: str) -> Any:
    from derm_t2im.diffusion import base

    try:
        return base.load(str(folder))
    except UserError as error:
        raise UserError(str(error).replace("finetune.base", option)) from None


def _check_room(work: Path, need: int) -> None:
    """Room for the latents (bytes) before hours of work."""
    free = shutil.disk_usage(work).free
    if need > free:
        raise UserError(
            f"base: the latents of the images take {need / 1e9:.1f} GB below {work}, {free / 1e9:.1f} GB are free: "
            "make room, or learn from fewer images."
        )
