"""The field's own programs on the same features: torch-fidelity (Obukhov et al. 2020) and prdc (Naeem et al. 2020)."""

from __future__ import annotations

import numpy as np
import prdc as theirs
import pytest
import torch
from torch_fidelity import metric_fid, metric_kid, metric_prc

from derm_t2im.fidelity.fid import fid
from derm_t2im.fidelity.kid import kid
from derm_t2im.fidelity.prdc import prdc


def sets(n: int, d: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features with a few strong directions, as those of images: real (n, d), synthetic (n, d)."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) * np.geomspace(2, 0.05, d)
    real, made = rng.normal(size=(n, d)) @ mix, (0.8 * rng.normal(size=(n, d))) @ mix + shift
    return np.maximum(real, -0.3).astype(np.float32), np.maximum(made, -0.3).astype(np.float32)


@pytest.mark.parametrize(("n", "d", "shift"), [(300, 32, 0.05), (500, 64, 0.3), (200, 16, 0.0)])
def test_fid(n: int, d: int, shift: float) -> None:
    real, made = sets(n, d, shift)
    stats = [metric_fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (real, made)]
    expected = metric_fid.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert fid(made, real) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("n", "d", "shift"), [(300, 32, 0.05), (500, 64, 0.3)])
def test_kid(n: int, d: int, shift: float) -> None:
    real, made = (x.astype(np.float64) for x in sets(n, d, shift))
    expected = metric_kid.kid_features_to_metric(
        torch.from_numpy(made), torch.from_numpy(real), kid_subsets=1, kid_subset_size=n, verbose=False
    )["kernel_inception_distance_mean"]
    assert kid(made, real) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_precision_recall_density_coverage(k: int, shift: float) -> None:
    real, made = sets(400, 24, shift)
    found = prdc(real, made, k)
    expected = theirs.compute_prdc(real, made, nearest_k=k)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, rel=1e-3), name
    also = metric_prc.prc_features_to_metric(
        torch.from_numpy(made), torch.from_numpy(real), prc_neighborhood=k, prc_batch_size=100, save_cpu_ram=False,
        verbose=False,
    )  # fmt: skip
    assert found["precision"].value == pytest.approx(also["precision"], rel=1e-3)
    assert found["recall"].value == pytest.approx(also["recall"], rel=1e-3)
