import numpy as np
import pytest
from safetensors import safe_open

from derm_t2im import features, networks
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import write_png

SMALL = {"channels": [8, 12, 16, 24], "stem_width": 8}


def images(n=5, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "probe"
    networks.save(networks.build("resnet10t", SMALL, ("benign", "malignant"), 32, seed=3), folder)
    return folder


def some(ids=("a", "b", "c")):
    rng = np.random.default_rng(0)
    odds = rng.dirichlet(np.ones(2), len(ids)).astype(np.float32)
    return features.Features(
        tuple(ids), rng.normal(size=(len(ids), 4)).astype(np.float32), ("benign", "malignant"), odds, "probe"
    )


def test_the_probe_as_encoder(probe):
    encode = features.encoder("probe", probe_folder=probe)
    out = encode(images())
    assert out.shape == (5, encode.dim) == (5, 24) and out.dtype == np.float32
    assert encode(images()[:0]).shape == (0, 24)
    assert np.allclose(encode(images()[2:3]), out[2:3], atol=1e-5)


def test_random_weights_are_always_the_same():
    first, second = (features.encoder("random:test_resnet")(images(2)) for _ in range(2))
    assert np.array_equal(first, second) and first.std() > 0


def test_a_timm_model_with_weights_from_a_file(tmp_path):
    folder = tmp_path / "any"
    networks.save(networks.build("test_resnet", {}, ("a", "b", "c"), 64, seed=5), folder)
    encode = features.encoder("test_resnet", str(folder / "model.safetensors"))
    assert encode.dim == 96
    assert not np.allclose(encode(images(1)), features.encoder("random:test_resnet")(images(1)))


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [
        ("mobilenetv2_100", "", "safetensors file or to 'pretrained'"),
        ("mobilenetv2_100", "nowhere.safetensors", "nowhere.safetensors.*no such file"),
        ("mobilnetv2_100", "pretrained", "no timm model; nearest: .*mobilenetv2_100"),
        ("probe", "w.safetensors", "takes none"),
        ("probe", "", "models/probe.*missing"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(name, weights, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        features.encoder(name, weights)


def test_extract_sorts_by_id_and_does_not_depend_on_the_batch(probe, tmp_path):
    encode, network = features.encoder("probe", probe_folder=probe), networks.load(probe)
    ids = ["c", "a", "b", "e", "d"]
    for name, image in zip(ids, images(), strict=True):
        write_png(tmp_path / f"{name}.png", image)
    files = [tmp_path / f"{name}.png" for name in ids]
    one, many = (features.extract(ids, files, encode, network, batch) for batch in (2, 64))
    assert one.image_id == tuple("abcde")
    assert np.allclose(one.matrix, many.matrix, atol=1e-5)
    assert np.allclose(one.rows(["c", "a"]), encode(images()[:2]), atol=1e-5)
    assert one.probability(["a"], ["malignant"])[0] == pytest.approx(network.predict(images()[1:2])[0, 1], abs=1e-5)


def test_what_was_computed_before_is_taken_from_the_store(probe, tmp_path, monkeypatch):
    encode, network = features.encoder("probe", probe_folder=probe), networks.load(probe)
    ids, store = ["c", "a", "b", "e", "d"], tmp_path / "store"
    for name, image in zip(ids, images(), strict=True):
        write_png(tmp_path / f"{name}.png", image)
    files = [tmp_path / f"{name}.png" for name in ids]
    whole = features.extract(ids, files, encode, network, 4)
    features.extract(ids[:3], files[:3], encode, network, 4, store=store)
    seen = []
    read = features.read_stack
    monkeypatch.setattr(features, "read_stack", lambda paths: seen.extend(paths) or read(paths))
    both = features.extract(ids, files, encode, network, 4, store=store)
    assert sorted(p.name for p in seen) == ["d.png", "e.png"]
    assert np.array_equal(both.matrix, whole.matrix) and np.array_equal(both.probabilities, whole.probabilities)
    # another image under an old name, another network, a broken store: all computed anew
    seen.clear()
    write_png(files[0], images(seed=1)[0])
    features.extract(ids, files, encode, network, 4, store=store)
    assert [p.name for p in seen] == ["c.png"]
    seen.clear()
    features.extract(ids, files, features.encoder("random:test_resnet"), network, 4, store=store)
    assert len(seen) == 5 and len(list(store.glob("*.safetensors"))) == 2
    for file in store.glob("*.safetensors"):
        file.write_bytes(b"torn")
    assert np.array_equal(
        features.extract(ids[1:], files[1:], encode, network, 4, store=store).matrix[0], whole.matrix[0]
    )


def test_the_store_forgets_the_oldest(probe, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "KEPT", 3)
    encode, network = features.encoder("probe", probe_folder=probe), networks.load(probe)
    files = [tmp_path / f"{i}.png" for i in range(5)]
    for file, image in zip(files, images(), strict=True):
        write_png(file, image)
    for chosen in (files[:2], files[2:4]):
        features.extract([f.stem for f in chosen], chosen, encode, network, 4, store=tmp_path / "store")
    seen = []
    read = features.read_stack
    monkeypatch.setattr(features, "read_stack", lambda paths: seen.extend(paths) or read(paths))
    features.extract([f.stem for f in files], files, encode, network, 4, store=tmp_path / "store")
    assert len(seen) == 2  # the fifth, and the first of those that were kept longest ago
    seen.clear()
    features.extract(["0"], files[:1], encode, network, 4, store=tmp_path / "store")
    other = tmp_path / "other.png"
    write_png(other, images(seed=2)[0])
    features.extract(["x"], [other], encode, network, 4, store=tmp_path / "store")
    (store,) = (tmp_path / "store").glob("*.safetensors")
    with safe_open(store, "np") as kept:
        assert kept.get_slice("features").get_shape()[0] == 3


def test_file_round_trip_and_equal_bytes(tmp_path):
    found = some()
    features.save(found, tmp_path / "a.safetensors")
    features.save(found, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    back = features.load(tmp_path / "a.safetensors")
    assert back.image_id == found.image_id and back.classes == found.classes and back.encoder == "probe"
    assert np.array_equal(back.matrix, found.matrix) and np.array_equal(back.probabilities, found.probabilities)


def test_no_images_make_an_empty_file(tmp_path):
    empty = features.Features((), np.empty((0, 4), np.float32), ("a",), np.empty((0, 1), np.float32), "probe")
    features.save(empty, tmp_path / "a.safetensors")
    assert features.load(tmp_path / "a.safetensors").matrix.shape == (0, 4)


def test_rows_probabilities_and_predictions_by_id():
    found = some()
    assert np.array_equal(found.rows(["c", "a"]), found.matrix[[2, 0]])
    odds = found.probability(["b", "b", "b"], ["benign", "malignant", "scar"])
    assert odds[:2].sum() == pytest.approx(1) and np.isnan(odds[2])
    assert found.predicted(["a"])[0] == found.classes[found.probabilities[0].argmax()]
    with pytest.raises(UserError, match=r"1 images have no features .first: z"):
        found.rows(["a", "z"])


def test_a_missing_file_and_one_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="dvc repro embed"):
        features.load(tmp_path / "none.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"something else")
    with pytest.raises(UserError, match="does not hold features"):
        features.load(tmp_path / "other.safetensors")
