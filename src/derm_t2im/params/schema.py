"""All of params.yaml, for the commands that look at the whole file."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from derm_t2im.errors import UserError
from derm_t2im.params import Section, complaint, read_yaml
from derm_t2im.params.acquire import Acquire
from derm_t2im.params.curate import Curate
from derm_t2im.params.embed import Embed
from derm_t2im.params.evaluate import Evaluate
from derm_t2im.params.explain import Explain
from derm_t2im.params.export import Export
from derm_t2im.params.fidelity import Fidelity
from derm_t2im.params.finetune import Finetune
from derm_t2im.params.generate import Generate
from derm_t2im.params.mix import Mix
from derm_t2im.params.preprocess import Preprocess
from derm_t2im.params.probe import Probe
from derm_t2im.params.report import Report
from derm_t2im.params.split import Split
from derm_t2im.params.train import Train
from derm_t2im.params.validate import Validate


class Params(Section):
    """params.yaml: a section per stage, and rules that cross sections."""

    acquire: Acquire
    preprocess: Preprocess
    split: Split
    probe: Probe
    finetune: Finetune
    generate: Generate
    embed: Embed
    fidelity: Fidelity
    validation: Validate = Field(alias="validate")  # BaseModel has a method `validate`
    curate: Curate
    mix: Mix
    train: Train
    evaluate: Evaluate
    explain: Explain
    export: Export
    report: Report

    @model_validator(mode="after")
    def _sections_agree(self) -> Params:
        if self.export.mix not in self.mix.mixes:
            raise ValueError(f"export.mix is {self.export.mix!r}, but mix.mixes are {', '.join(self.mix.mixes)}")
        if self.split.seed_images > self.split.train:
            raise ValueError(
                f"split.seed_images ({self.split.seed_images}) must not exceed split.train ({self.split.train})"
            )
        return self


def load_all(path: Path = Path("params.yaml")) -> Params:
    """Read and check the whole parameter file.

    Raises:
        UserError: naming each wrong key or value and what is allowed.
    """
    try:
        return Params.model_validate(read_yaml(path))
    except ValidationError as error:
        raise UserError(complaint(error, "", Params)) from None
