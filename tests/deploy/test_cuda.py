"""What only a GPU does: bound buffers on the device, CUDA graphs, half precision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from derm_t2im.deploy import export, quantise
from derm_t2im.deploy.runtime import CUDA, TENSORRT, Predictor, loaded_providers
from derm_t2im.errors import UserError
from tests.deploy import models

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUDA not in loaded_providers(), reason="ONNX Runtime does not load CUDA here"),
]


@pytest.fixture(scope="module", params=["vit", "mobilenetv2"])
def network(request: pytest.FixtureRequest) -> models.Network:
    return models.network(request.param)


@pytest.fixture(scope="module")
def content(network: models.Network) -> bytes:
    return export.to_onnx(network, models.card(network))


def test_auto_takes_cuda_and_records_graphs(content: bytes) -> None:
    predictor = Predictor(content)
    assert predictor.provider == CUDA and predictor._bound is not None
    assert predictor._bound._graphs


def test_it_says_what_the_cpu_says(content: bytes) -> None:
    cpu, cuda = Predictor(content, "cpu"), Predictor(content, "cuda")
    images = models.phantoms(37)
    expected = cpu.run(images)
    for n in (1, 3, 37, 4, 37, 2, 1):  # recorded, replayed, filled up
        found = cuda.run(images[:n], batch=16)
        np.testing.assert_allclose(found.probabilities, expected.probabilities[:n], atol=1e-2)  # TF32: 0.0036 seen
        assert (found.embeddings is None) == (expected.embeddings is None)


def test_a_replayed_graph_reads_the_new_images(content: bytes) -> None:
    cuda = Predictor(content, "cuda")
    images = models.phantoms(8)
    first = [cuda.predict(images) for _ in range(4)][-1]
    assert np.array_equal(cuda.predict(images[::-1].copy())[::-1].round(4), first.round(4))
    assert not np.allclose(first, first[::-1], atol=1e-3)


def test_threads_share_one(content: bytes) -> None:
    cuda = Predictor(content, "cuda")
    images = models.phantoms(24)
    expected = cuda.predict(images)
    parts = [(start, 1 + start % 7) for start in range(16)] * 6
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: cuda.predict(images[part[0] : part[0] + part[1]]), parts))
    for (start, n), values in zip(parts, found, strict=True):
        np.testing.assert_allclose(values, expected[start : start + n], atol=1e-2)


def test_buffers_made_anew_have_graphs_of_their_own(content: bytes) -> None:
    cuda = Predictor(content, "cuda")
    images = models.phantoms(8)
    before = [cuda.predict(images) for _ in range(3)][-1]
    assert cuda._bound is not None
    cuda._bound.forget()
    cuda.predict(models.phantoms(16))
    np.testing.assert_allclose([cuda.predict(images) for _ in range(3)][-1], before, atol=1e-5)


def test_half_precision_is_near(network: models.Network) -> None:
    card = models.card(network)
    halved = export.assemble(quantise.half(export.body(network)), card.model_copy(update={"precision": "fp16"}))
    images = models.phantoms(16)
    expected = Predictor(export.to_onnx(network, card), "cpu").predict(images)
    np.testing.assert_allclose(Predictor(halved, "cuda").predict(images), expected, atol=2e-2)


def test_tensorrt_that_does_not_load_is_named(content: bytes) -> None:
    try:
        predictor = Predictor(content, "tensorrt")
    except UserError as error:
        assert TENSORRT in str(error) and "lib" in str(error)
    else:
        assert predictor.provider == TENSORRT


def test_images_of_other_sizes_are_resized_on_the_device(content: bytes) -> None:
    cpu, cuda = Predictor(content, "cpu"), Predictor(content, "cuda")
    for side in (20, 32, 77):
        images = np.random.default_rng(side).integers(0, 256, (3, side, side + 5, 3), dtype=np.uint8)
        np.testing.assert_allclose(cuda.predict(images), cpu.predict(images), atol=1e-2)
