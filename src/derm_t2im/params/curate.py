"""Parameters of `curate`: which synthetic images stay."""

from __future__ import annotations

from pydantic import Field

from derm_t2im.params import Section


class Curate(Section):
    """Section `curate`.

    ``max_hair_fraction`` is raised to the ``hair_quantile`` of what real training images have left of hair after
    `preprocess`. ``sharpness_quantile`` is one of real images' fine detail, at the pool's level; ``copy_quantile`` the
    share of held-out real images that the search for copies may flag. What the bounds find: docs/curation-measured.md.
    """

    keep: int = Field(360, ge=2)
    balance_tones: bool = True
    max_hair_fraction: float = Field(0.005, ge=0, le=1)
    hair_quantile: float = Field(0.99, ge=0, le=1)
    max_ruler: float = Field(0.5, ge=0, le=1)
    max_ink: float = Field(0.5, ge=0, le=1)
    sharpness_quantile: float = Field(0.01, ge=0, lt=0.5)
    off_manifold_quantile: float = Field(0.99, gt=0.5, le=1)
    copy_quantile: float = Field(0.01, gt=0, lt=0.5)
    near_duplicate_quantile: float = Field(0.001, gt=0, lt=0.5)
    min_label_probability: float = Field(0.4, ge=0, le=1)
    min_uniqueness: float = Field(0.0, ge=0, le=1)
    seed: int = 0
