import numpy as np
import pytest

from derm_t2im.sources import phantom
from derm_t2im.vocabulary import TONES, size_of, tone_of

STYLES = list(phantom.STYLES.values())


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.name)
def test_the_same_seed_gives_the_same_image(style: phantom.Style) -> None:
    one, two = (phantom.render(style, 3, "x") for _ in range(2))
    assert np.array_equal(one.image, two.image)
    assert not np.array_equal(one.image, phantom.render(style, 4, "x").image)


@pytest.mark.parametrize("size", [32, 64, 100, 256, 512])
def test_any_size_shows_the_same_scene(size: int) -> None:
    small, large = (
        phantom.render(phantom.CLINIC_A, 1, "s", size=64),
        phantom.render(phantom.CLINIC_A, 1, "s", size=size),
    )
    assert large.image.shape == (size, size, 3) and large.image.dtype == np.uint8
    assert large.lesion.shape == large.hair.shape == (size, size)
    assert abs(small.area - large.area) < 0.02
    assert np.abs(small.image.mean((0, 1)) - large.image.mean((0, 1))).max() < 4


@pytest.mark.parametrize("style", STYLES, ids=lambda s: s.name)
@pytest.mark.parametrize("tone", list(TONES))
def test_what_is_asked_for_is_true(style: phantom.Style, tone: str) -> None:
    for count in (1, 2, 3):
        drawn = phantom.render(style, count, tone, label="malignant", size_word="medium", count=count, tone=tone)
        assert (drawn.label, drawn.count, drawn.tone) == ("malignant", count, tone)
        assert tone_of(drawn.ita) == tone
        assert drawn.size == size_of(drawn.area)
        assert 0.05 < drawn.area < 0.3


def test_hair_is_what_differs_from_the_clean_image() -> None:
    for i in range(20):
        drawn = phantom.render(phantom.CLINIC_A, i, hair=1.0)
        changed = np.abs(drawn.image.astype(int) - drawn.clean.astype(int)).max(2)
        assert bool(drawn.hair.any()) == ("hair" in drawn.artefacts)
        if drawn.hair.sum() >= 5:
            assert changed[drawn.hair].mean() > 4 * changed[~drawn.hair].mean()
    assert not phantom.render(phantom.CLINIC_A, 0, hair=0.0).hair.any()


def test_classes_overlap_as_stated() -> None:
    """The truth's own posterior classifies with the accuracy that the separation promises."""
    drawn = [phantom.render(phantom.CLINIC_A, i, "bayes", size=32) for i in range(600)]
    right = np.mean([(p.bayes > 0.5) == (p.label == "malignant") for p in drawn])
    separation = np.sqrt(sum(d**2 for d in phantom.SEPARATION.values()))
    from scipy.stats import norm

    assert right == pytest.approx(norm.cdf(separation / 2), abs=0.03)
    assert 0.4 < np.mean([p.label == "malignant" for p in drawn]) < 0.6


def test_clinics_differ_and_the_broad_distribution_reaches_past_both() -> None:
    def colours(style: phantom.Style) -> np.ndarray:
        return np.array([phantom.render(style, i, "c", size=32).image.mean((0, 1)) for i in range(150)])

    def warmth(c: np.ndarray) -> np.ndarray:
        return np.log(c[:, 0] / c[:, 2])

    a, b, broad = (warmth(colours(s)) for s in (phantom.CLINIC_A, phantom.CLINIC_B, phantom.BROAD))
    assert a.mean() - b.mean() > 0.05
    low, high = np.quantile(broad, [0.03, 0.97])
    for clinic in (a, b):
        assert low < np.quantile(clinic, 0.1) and np.quantile(clinic, 0.9) < high
