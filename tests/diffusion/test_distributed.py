"""Two processes (gloo) do what one does: the same data, averaged gradients, shards that make up the whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from derm_t2im import distributed, manifest, paths
from derm_t2im.diffusion import lora
from derm_t2im.errors import UserError
from tests.diffusion.test_finetune_stage import project

ROOT = Path(__file__).parents[2]
TWO = "accelerate launch --multi_gpu --num_machines 1 --num_processes 2 --mixed_precision no --dynamo_backend no"


def run(root: Path, stage: str, launch: str = "", port: int = 29511) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "DERM_T2IM_DEVICE": "cpu",
        "DERM_T2IM_THREADS": "1",
        "DERM_T2IM_LAUNCH": launch and f"{launch} --main_process_port {port}",
        "ACCELERATE_USE_CPU": "true" if launch else "false",
    }
    return subprocess.run(
        [sys.executable, "-m", "derm_t2im", "stage", stage],
        cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_two_processes_give_what_one_gives(tiny_base: Path, tmp_path: Path) -> None:
    settings = {
        "batch": 3, "accumulate": 2, "steps": 3, "checkpoint_every": 3, "prior_weight": 0.5, "prior_images": 2,
        "sample_every": 0, "adherence_samples": 0, "ema": 0.5, "lr": 0.01,
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        root.mkdir()
        before = Path.cwd()
        os.chdir(root)
        try:
            project(root, tiny_base, **settings)
        finally:
            os.chdir(before)
        values = yaml.safe_load((root / "params.yaml").read_text())
        values["generate"] |= {"images": 7, "samplers": ["euler_a", "plms"]}
        (root / "params.yaml").write_text(yaml.safe_dump(values))
    for root, launch in ((one, ""), (two, TWO)):
        done = run(root, "finetune", launch)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("finetune: held-out loss") == 1, "one of them speaks"
    mine, theirs = (load_file(root / paths.LORA / lora.WEIGHTS) for root in (one, two))
    assert mine.keys() == theirs.keys()
    for name in mine:
        # Adam takes a step of full size where a gradient is hardly more than its rounding.
        assert (theirs[name] - mine[name]).norm() < 1e-3 * mine[name].norm(), name
    losses = [pd.read_csv(root / paths.FINETUNE_PLOTS / "metrics/train_loss.tsv", sep="\t") for root in (one, two)]
    torch.testing.assert_close(*(torch.tensor(table["train_loss"].to_numpy()) for table in losses), rtol=1e-4, atol=0)

    shutil.rmtree(two / paths.LORA)
    shutil.copytree(one / paths.LORA, two / paths.LORA)
    for root, launch in ((one, ""), (two, TWO)):
        done = run(root, "generate", launch)
        assert done.returncode == 0, done.stderr[-3000:]
    tables = [manifest.read(root / paths.SYNTHETIC_MANIFEST) for root in (one, two)]
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) == 7
    for name in tables[0]["image_id"]:
        assert len({(root / paths.SYNTHETIC / "images" / f"{name}.png").read_bytes() for root in (one, two)}) == 1
    values = yaml.safe_load((two / "params.yaml").read_text())
    values["finetune"]["batch"] = 1
    (two / "params.yaml").write_text(yaml.safe_dump(values))
    done = run(two, "finetune", TWO)
    assert done.returncode and "finetune.batch is 1 and 2 processes share it" in done.stderr


def test_a_launcher_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERM_T2IM_LAUNCH", "no-such-launcher --processes 2")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.start_again("evaluate")  # a stage of one process
    with pytest.raises(UserError, match=r"DERM_T2IM_LAUNCH is 'no-such-launcher --processes 2': .*No such file"):
        distributed.start_again("finetune")


def test_alone_everything_stays_as_it_is() -> None:
    alone = distributed.Group()
    weights = [torch.arange(3.0)]
    alone.add_up(weights)
    alone.wait()
    assert weights[0].tolist() == [0, 1, 2] and alone.total(torch.tensor(2.5)) == 2.5 and alone.first
    assert alone.of_first(7.0, "cpu") == 7.0
