from __future__ import annotations

from typing import Any

import pytest

from derm_t2im.deploy import model_card
from derm_t2im.deploy.card import Card, Measured, Operating
from tests.deploy import models

COMPARED = {
    "n": 500, "max_abs_difference": 3e-7, "threshold_flips": 0, "size_mb": 1.9, "auc": 0.9, "auc_low": 0.85,
    "auc_high": 0.95, "auc_loss": 0.0, "auc_loss_low": 0.0, "auc_loss_high": 0.0,
}  # fmt: skip
METRICS: dict[str, Any] = {
    "variants": {
        "fp32": COMPARED, "int8": {**COMPARED, "threshold_flips": 13, "operating": {"sensitivity": 0.885}},
    }, "checked": {"val": 120, "test": 380},
}  # fmt: skip


def full_card(**values: Any) -> Card:
    figures = {"auc": 0.897, "auc_low": 0.868, "auc_high": 0.923, "accuracy": 0.82, "ece": None, "brier": 0.12}
    operating = Operating(positives=61, negatives=59, sensitivity=0.9016, specificity=None)
    tested = Measured(
        images=500,
        groups=480,
        figures=figures,
        operating=operating,
        study={"auc": 0.88, "auc_seed_sd": 0.012, "seeds": 5},
    )
    known = {
        "tests": {"in_domain": tested}, "operating": operating, "training_images": {"real": 120, "synthetic": 360},
        "licences": {"CC0-1.0": 120}, "licence": "CC0-1.0", "temperature": 1.25,
    }  # fmt: skip
    return models.card(models.network(), **{**known, **values})


def test_it_says_what_a_user_needs() -> None:
    text = model_card.render(full_card(), METRICS)
    for words in (
        "Research only, not a medical device", "120 real, 360 synthetic", "benign, malignant",
        "temperature = 1.25", "sensitivity of 0.9 on validation images", "0.897 (0.868 to 0.923)", "13 of 500",
        "120 val, 380 test", "`model.int8.onnx`", "## Limits", "| 0.885 | none |", "0.880, SD 0.012",
        "mean over the 5 seeds", "hair_removal = directional",
    ):  # fmt: skip
        assert words in text
    assert "{{" not in text and "\n\n\n" not in text and "None" not in text


@pytest.mark.parametrize(
    ("licence", "identifier"),
    [("CC0-1.0", "cc0-1.0"), ("CC-0", "cc0-1.0"), ("CC BY-NC 4.0", "cc-by-nc-4.0"), ("CC-BY AND CC0-1.0", "other")],
)
def test_the_hub_reads_its_front_matter(licence: str, identifier: str) -> None:
    from huggingface_hub import ModelCard

    found = ModelCard(model_card.render(full_card(licence=licence), METRICS)).data
    assert found.license == identifier
    assert found.to_dict().items() >= {"library_name": "onnx", "pipeline_tag": "image-classification"}.items()
    values = {result.metric_type: result.metric_value for result in found.eval_results}
    assert values == {"roc_auc": 0.897, "accuracy": 0.82, "brier_score": 0.12}


def test_it_warns_of_licences_and_says_where_nothing_was_measured() -> None:
    made = full_card(tests={}, threshold=None, threshold_sensitivity=None, licence_warning="7 images exclude it.")
    text = model_card.render(made, METRICS)
    assert "**7 images exclude it.**" in text and "Not measured." in text and "Operating threshold" not in text
