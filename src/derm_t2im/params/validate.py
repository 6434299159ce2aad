"""Parameters of `validate_data` and `validate`: the bounds of the two Great Expectations gates."""

from __future__ import annotations

from pydantic import Field

from derm_t2im.params import Section


class Validate(Section):
    """Section `validate`.

    ``quantile`` of the real images bounds what synthetic ones should measure, for at least the share
    ``mostly`` of them. Hair on more than ``max_hair_fraction`` of an image is counted, and its share among synthetic
    images may exceed that among prepared real ones by ``max_hair_excess``.
    """

    min_side: int = Field(64, ge=1)
    min_class_share: float = Field(0.02, ge=0, le=1)
    min_sharpness: float = Field(0.05, ge=0, le=1)
    min_images_per_class: int = Field(20, ge=1)
    max_kid_over_floor: float = Field(40.0, gt=0)
    max_hair_fraction: float = Field(0.005, ge=0, le=1)
    max_hair_excess: float = Field(0.18, ge=0, le=1)
    max_copy_rate: float = Field(0.05, ge=0, le=1)
    min_planted_recall: float = Field(0.9, ge=0, le=1)
    max_label_disagreement: float = Field(0.5, ge=0, le=1)
    max_shortcut_excess: float = Field(0.2, ge=0, le=1)
    quantile: float = Field(0.001, ge=0, lt=0.5)
    mostly: float = Field(0.9, gt=0, le=1)
