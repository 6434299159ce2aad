from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from derm_t2im.deploy.export import to_onnx
from tests.deploy import models


@pytest.fixture(scope="session")
def exported() -> bytes:
    net = models.network()
    return to_onnx(net, models.card(net))


@pytest.fixture(scope="session")
def model_file(exported: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(exported)
    return path


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return models.phantoms(21)
