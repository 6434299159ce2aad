"""What comes from elsewhere: pinned, listed, and never unpickled."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from derm_t2im.diffusion import checkpoint
from tests import contract

ROOT = Path(__file__).parents[1]
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# Classes with weights; tokenizers, processors and schedulers have none.
WITHOUT_WEIGHTS = re.compile(r"Tokenizer|Processor|Scheduler|Config")


def offences(source: str) -> Iterator[str]:
    """Lines of a module that may run what a file of weights says."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            if PICKLES & {name.split(".")[0] for name in names}:
                yield f"{node.lineno}: imports {', '.join(names)}"
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        called = ast.unparse(node.func)
        constants = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
        if called in ("torch.load", "torch.jit.load", "torch.hub.load") and constants.get("weights_only") is not True:
            yield f"{node.lineno}: {called} without weights_only=True"
        if called.endswith("read_pickle") or any(k.arg == "allow_pickle" for k in node.keywords
                                                 if constants.get("allow_pickle") is not False):  # fmt: skip
            yield f"{node.lineno}: {called} unpickles"
        if (
            called.endswith(".from_pretrained")
            and not WITHOUT_WEIGHTS.search(called)
            and constants.get("use_safetensors") is not True
        ):
            yield f"{node.lineno}: {called} without use_safetensors=True"


@pytest.mark.parametrize("file", sorted((ROOT / "src").rglob("*.py")), ids=lambda file: file.stem)
def test_no_source_file_unpickles(file: Path) -> None:
    assert list(offences(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    ["torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=w)", "import pickle",
     "from joblib import load", "np.load(f, allow_pickle=True)", "pandas.read_pickle(f)",
     "SamModel.from_pretrained(f)", "SamModel.from_pretrained(f, use_safetensors=False)"],
)  # fmt: skip
def test_what_would_unpickle_is_seen(line: str) -> None:
    assert len(list(offences(line))) == 1


@pytest.mark.parametrize(
    "line",
    ["torch.load(f, weights_only=True)", "np.load(f)", "np.load(f, allow_pickle=False)", "json.load(f)",
     "CLIPTokenizer.from_pretrained(f)", "SamModel.from_pretrained(f, use_safetensors=True)"],
)  # fmt: skip
def test_what_is_safe_passes(line: str) -> None:
    assert list(offences(line)) == []


def test_the_tokenizer_of_the_hub_is_pinned_by_commit() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", checkpoint.TOKENIZER_REVISION)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-mongod.lock", "requirements-tools.lock"])
def test_each_locked_package_has_hashes_and_no_registry(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert entries and all("--hash=sha256:" in entry for entry in entries)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_licences_is_of_this_lock() -> None:
    """Not the licences: some packages are absent on some systems."""
    licences = script("licences")
    shown = dict(
        re.findall(r"^\| \*{0,2}([\w-]+?)\*{0,2} \| (\S+) \| ", licences.PAGE.read_text("utf-8"), re.MULTILINE)
    )
    assert {name: shown.get(name) for name in licences.locked()} == licences.locked(), "run make licences"


@pytest.mark.parametrize(
    ("said", "more"),
    [("MIT", False), ("MPL-2.0", True), ("Apache-2.0 OR GPL-2.0-or-later", False), ("MPL-2.0 AND MIT", True),
     ("EPL-2.0 OR GPL-2.0-or-later", True), ("MPL-2.0 AND (Apache-2.0 OR MIT)", True)],
)  # fmt: skip
def test_licences_that_ask_for_more_are_known(said: str, more: bool) -> None:
    assert script("licences").binding(said) is more


def test_hooks_run_what_the_locks_pin() -> None:
    hooks = [hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
             for hook in repo["hooks"]]  # fmt: skip
    assert {"ruff", "ruff-format", "detect-secrets"} <= {hook["id"] for hook in hooks}
    for hook in hooks:
        folder, program = Path(hook["entry"].split()[0]).parts[0], Path(hook["entry"].split()[0]).name
        lock = {".venv": "requirements.lock", ".venv-tools": "requirements-tools.lock"}[folder]
        package = program.removesuffix("-hook")
        assert re.search(rf"^{package}==", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)


def test_artifacts_are_outputs_of_the_pipeline() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    pipeline = yaml.safe_load(text)
    assert yaml.safe_load(contract.rewritten(text))["artifacts"] == pipeline["artifacts"]
    outs = set()
    for stage in pipeline["stages"].values():
        for out in stage.get("outs", []):
            outs |= {out.replace("${item.arch}", arch) for arch in ("mobilenetv2", "vit")}
    artifacts = pipeline["artifacts"]
    assert {"lora", "curated-set", "classifier-vit", "classifier-mobilenetv2"} <= set(artifacts)
    for name, artifact in artifacts.items():
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
        assert artifact["path"] in outs
        assert artifact["type"] in ("model", "dataset") and artifact["desc"] and artifact["labels"]


def test_dvc_reads_the_artifacts() -> None:
    from dvc.repo import Repo

    with Repo(str(ROOT)) as repo:
        (found,) = repo.artifacts.read().values()
    assert {"lora", "curated-set", "synthetic-images", "classifier-vit", "classifier-mobilenetv2"} == set(found)
