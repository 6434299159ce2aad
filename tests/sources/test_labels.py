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


NEVUS = "Benign:Benign melanocytic proliferations:Nevus"


@pytest.mark.parametrize(
    ("path", "binary", "seven"),
    [
        (NEVUS + ":Nevus, Atypical, Dysplastic, or Clark:Nevus, Atypical, Compound", "benign", "nv"),
        ("Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma Invasive", "malignant", "mel"),
        ("Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma metastasis", "malignant", None),
        ("Malignant:Malignant epidermal proliferations:Squamous cell carcinoma in situ", "malignant", "akiec"),
        ("Malignant:Malignant epidermal proliferations:Verrucous carcinoma", "malignant", None),
        ("Indeterminate:Indeterminate epidermal proliferations:Solar or actinic keratosis", "malignant", "akiec"),
        ("Indeterminate:Indeterminate melanocytic proliferations:Atypical Spitz tumor", None, None),
        ("Benign:Benign epidermal proliferations:Lichen planus like keratosis", "benign", "bkl"),
        ("Benign", "benign", None),
        ("melanoma: ruled out", None, None),
    ],
)
def test_paths_of_the_isic_archive(path: str, binary: str | None, seven: str | None) -> None:
    assert (labels.label_of(path, "binary"), labels.label_of(path, "ham10000")) == (binary, seven)


#: The values that the ISIC Archive's field `diagnosis` had before there was a hierarchy; undecided are those
#: that may be either.
ISIC_BEFORE = """actinic keratosis, adnexal tumor, AIMP, angiokeratoma, angioma, basal cell carcinoma,
cafe-au-lait macule, dermatofibroma, ephelis, lentigo NOS, lentigo simplex, lichenoid keratosis, melanoma,
melanoma metastasis, merkel cell carcinoma, mucosal melanosis, nevus, nevus spilus, seborrheic keratosis,
solar lentigo, squamous cell carcinoma, clear cell acanthoma, atypical spitz tumor, acrochordon,
angiofibroma or fibrous papule, neurofibroma, pyogenic granuloma, scar, sebaceous adenoma,
sebaceous hyperplasia, verruca, atypical melanocytic proliferation, epidermal nevus,
pigmented benign keratosis, vascular lesion, other"""
UNDECIDED = {"adnexal tumor", "AIMP", "atypical spitz tumor", "atypical melanocytic proliferation", "other"}


def test_only_what_may_be_either_is_left_undecided() -> None:
    names = [" ".join(name.split()) for name in ISIC_BEFORE.split(",")]
    assert {name for name in names if labels.label_of(name, "binary") is None} == UNDECIDED


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
