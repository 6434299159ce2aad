import numpy as np
import pytest

from derm_t2im.fidelity.assess import COMPARED, Images, assess, compare, disagreement


def images(n, seed, shift=0.0, labels=("benign", "malignant"), right=0.9):
    rng = np.random.default_rng(seed)
    names = np.array([labels[i % len(labels)] for i in range(n)], dtype=object)
    predicted = np.where(rng.random(n) < right, names, labels[0])
    thumbs = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    tones = np.array([("light", "tan", None)[i % 3] for i in range(n)], dtype=object)
    samplers = np.array([("euler", "plms")[i // 2 % 2] for i in range(n)], dtype=object)
    probabilities = rng.dirichlet(np.full(2, 0.3), n)
    return Images(rng.normal(shift, 1, (n, 8)), names, thumbs, predicted, probabilities, tones, samplers)


def run(real, made, known=("benign", "malignant")):
    noise = np.random.default_rng(9).normal(4, 0.1, (60, 8))
    return assess(real, made, known, neighbours=3, bootstrap=30, seed=0, noise=noise)


def test_every_promised_key_is_there_with_its_interval():
    out = run(images(120, 0), images(150, 1))
    assert set(out) == {"all", "benign", "malignant", "samplers", "shortcuts", "tones"}
    assert set(out["samplers"]) == {"euler", "plms"} and set(out["tones"]) == {"light", "tan"}
    parts = [out[name] for name in ("benign", "malignant", "all")]
    for part in [*parts, *out["samplers"].values(), *out["tones"].values()]:
        for key in ("kid", "kid_floor", "cmmd", "cmmd_floor", "precision", "recall", "density", "coverage", "vendi",
                    "vendi_real", "fid", "fid_infinity", "fid_infinity_real", "inception_score"):  # fmt: skip
            assert part[f"{key}_low"] <= part[key] <= part[f"{key}_high"], key
        for key in COMPARED:
            assert np.isfinite(part[f"{key}_noise"]), key
        for key in ("kid", "cmmd", "fid", "fid_infinity"):
            assert part[f"{key}_noise"] > part[key], "noise is the ceiling"
        assert part["precision_noise"] == 0
    assert out["samplers"]["euler"]["n_synthetic"] + out["samplers"]["plms"]["n_synthetic"] == 150
    assert out["tones"]["light"]["n_real"] == 40 and out["samplers"]["plms"]["n_real"] == 120
    assert out["benign"]["n_real"] == 60 and out["all"]["n_synthetic"] == 150
    for key in ("colour_excess_auc", "border_excess_auc"):
        assert {key, f"{key}_low", f"{key}_high"} <= set(out["shortcuts"])


def test_an_honest_set_stays_near_the_floor_and_a_shifted_one_does_not():
    real = images(200, 0)
    good, bad = run(real, images(200, 1)), run(real, images(200, 2, shift=1.0))
    assert good["all"]["kid"] < 2 * good["all"]["kid_floor_high"]
    assert bad["all"]["kid"] > 10 * bad["all"]["kid_floor_high"]
    assert good["all"]["precision"] > bad["all"]["precision"]


def test_few_images_of_a_class_leave_gaps_not_errors():
    real, made = images(60, 0, labels=("a", "b", "b", "b", "b", "b")), images(3, 1, labels=("a", "c"))
    out = run(real, made, known=("a", "b"))
    assert np.isnan(out["b"]["kid"]) and out["b"]["n_synthetic"] == 0
    assert np.isnan(out["c"]["label_disagreement"])
    assert np.isnan(out["a"]["precision"])


def test_seven_classes():
    labels = tuple(f"class{i}" for i in range(7))
    out = run(images(140, 0, labels=labels), images(140, 1, labels=labels), known=labels)
    assert set(out) == {*labels, "all", "samplers", "shortcuts", "tones"}


def test_features_of_meaningless_length_are_compared_by_direction():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(80, 8)), rng.normal(size=(80, 8))
    long = made * rng.uniform(0.1, 50, (80, 1))
    by_direction = [compare(real, x, equal_length=True)["kid"] for x in (made, long)]
    assert by_direction[0] == pytest.approx(by_direction[1])
    assert compare(real, long)["kid"] > 100


def test_disagreement_counts_only_what_the_probe_knows():
    labels = np.array(["a", "a", "b", "z"], dtype=object)
    predicted, nothing = np.array(["a", "b", "b", "a"], object), np.full(4, None, object)
    some = Images(
        np.zeros((4, 1)), labels, np.zeros((4, 8, 8, 3), np.uint8), predicted, np.ones((4, 1)), nothing, nothing
    )
    found = disagreement(some, ("a", "b"))
    assert found.value == pytest.approx(1 / 3) and found.n == 3


def test_a_class_called_like_a_key_is_refused():
    with pytest.raises(ValueError, match="copies"):
        run(images(20, 0, labels=("copies", "b")), images(20, 1, labels=("copies", "b")))
