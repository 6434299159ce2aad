"""Diagnoses become classes by the table, and only by the table."""

from __future__ import annotations

import pytest

from derm_t2im.sources import labels
from derm_t2im.vocabulary import LABEL_WORDS


def test_the_codes_of_ham10000() -> None:
    malignant = {dx for dx in labels.HAM10000 if labels.label_of(dx, "binary") == "malignant"}
    assert malignant == {"mel", "bcc", "akiec"}
    assert [labels.label_of(dx, "ham10000") for dx in labels.HAM10000] == list(labels.HAM10000)


@pytest.mark.parametrize("text", ["Basal cell carcinoma", " basal_cell-carcinoma ", "BCC"])
def test_spelling_does_not_matter(text: str) -> None:
    assert labels.label_of(text, "binary") == "malignant"
    assert labels.label_of(text, "ham10000") == "bcc"


@pytest.mark.parametrize("text", ["", "eczema", "melanomas", "nv?", "unknown"])
def test_nothing_is_guessed(text: str) -> None:
    assert labels.label_of(text, "binary") is None
    assert labels.label_of(text, "ham10000") is None


def test_a_class_may_exist_in_one_scheme_only() -> None:
    assert labels.label_of("squamous cell carcinoma", "binary") == "malignant"
    assert labels.label_of("squamous cell carcinoma", "ham10000") is None


def test_as_is_takes_any_name() -> None:
    assert labels.label_of(" eczema ", "as_is") == "eczema"
    assert labels.label_of("  ", "as_is") is None


def test_the_table_is_sound() -> None:
    version, rows = labels.table()
    assert version >= 1
    for row in rows.values():
        assert row["binary"] in ("benign", "malignant")
        assert row["ham10000"] in ("", *labels.HAM10000)
        if row["ham10000"]:
            assert labels.label_of(row["ham10000"], "binary") == row["binary"]
            assert row["ham10000"] in LABEL_WORDS
