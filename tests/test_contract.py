"""dvc.yaml tells the truth about the stages: dependencies, parameters, paths."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from derm_t2im import paths
from derm_t2im.cli import STAGES
from derm_t2im.params.schema import Params, load_all
from tests import contract

ROOT = contract.ROOT
PIPELINE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def named(entries: list[Any]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def undeclared(name: str, pipeline: dict[str, dict[str, Any]]) -> list[str]:
    """Source files that a stage imports and dvc.yaml does not list."""
    listed = named(pipeline[name]["deps"])
    return [f for f in contract.needed(name) if not any(f == d or f.startswith(d + "/") for d in listed)]


def test_every_stage_has_its_file_and_the_command_knows_it() -> None:
    assert list(PIPELINE) == list(STAGES)
    for name in PIPELINE:
        assert (contract.SOURCE / "stages" / f"{name}.py").is_file()
        assert PIPELINE[name]["cmd"].startswith(f"derm-t2im stage {name}")


@pytest.mark.parametrize("name", list(PIPELINE))
def test_all_imports_of_a_stage_are_declared(name: str) -> None:
    assert undeclared(name, PIPELINE) == [], f"dvc.yaml: add these to the deps of {name}"


@pytest.mark.parametrize("name", list(PIPELINE))
def test_nothing_is_declared_that_is_not_imported(name: str) -> None:
    listed = [d for d in named(PIPELINE[name]["deps"]) if d.startswith("src/")]
    assert sorted(set(listed) - set(contract.needed(name))) == []


@pytest.mark.parametrize("name", list(PIPELINE))
def test_a_removed_dependency_is_noticed(name: str) -> None:
    for removed in [d for d in named(PIPELINE[name]["deps"]) if d.startswith("src/")]:
        broken = copy.deepcopy(PIPELINE)
        broken[name]["deps"].remove(removed)
        assert removed in undeclared(name, broken)


def test_declared_parameters_are_in_the_schema() -> None:
    known = load_all(ROOT / "params.yaml").model_dump(by_alias=True)
    for name, stage in PIPELINE.items():
        for parameter in stage.get("params", []):
            for arch in known["train"]["archs"]:
                value: Any = known
                for part in parameter.replace("${item.arch}", arch).split("."):
                    assert part in value, f"{name}: {parameter}"
                    value = value[part]


def sections_loaded(name: str) -> set[str]:
    text = (contract.SOURCE / "stages" / f"{name}.py").read_text()
    if "load_all()" in text:
        return set(load_all(ROOT / "params.yaml").model_dump(by_alias=True))
    return set(re.findall(r'load\("(\w+)"', text))


@pytest.mark.parametrize("name", list(PIPELINE))
def test_sections_that_a_stage_loads_are_declared(name: str) -> None:
    declared = {p.split(".")[0] for p in PIPELINE[name].get("params", [])}
    assert sections_loaded(name) == declared


def test_every_train_parameter_is_declared() -> None:
    """`train` lists its parameters one by one, so that adding an architecture does not retrain the others."""
    declared = {p.removeprefix("train.") for p in PIPELINE["train"]["params"]}
    fields = set(Params.model_fields["train"].annotation.model_fields)
    assert {d.split(".")[0] for d in declared} == fields - {"archs"}


@pytest.mark.parametrize("name", list(PIPELINE))
def test_outputs_are_in_paths(name: str) -> None:
    known = {value.as_posix() for value in vars(paths).values() if isinstance(value, Path)}
    stage = PIPELINE[name]
    for output in named(stage.get("outs", []) + stage.get("metrics", []) + stage.get("plots", [])):
        folder = output.split("/${")[0]
        assert folder in known or str(Path(folder).parent) == paths.PLOTS.as_posix(), output


def test_metrics_lie_in_git() -> None:
    for name, stage in PIPELINE.items():
        for metric in stage.get("metrics", []):
            assert next(iter(metric.values())) == {"cache": False}, name


def test_no_parameter_value_is_in_a_command() -> None:
    for stage in PIPELINE.values():
        assert set(re.findall(r"\$\{([^}]*)\}", stage["cmd"])) <= {"item.arch", "item.mix"}


def test_the_command_line_starts_without_heavy_packages() -> None:
    heavy = ("numpy", "pandas", "torch", "pydantic", "yaml", "scipy", "fastapi", "matplotlib", "dvc")
    code = f"import sys, derm_t2im.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
