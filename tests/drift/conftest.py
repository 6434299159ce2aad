from tests.deploy.conftest import exported, model_file

__all__ = ["exported", "model_file"]
