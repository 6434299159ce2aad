from __future__ import annotations

import pandas as pd
import pytest

from derm_t2im import licences


@pytest.mark.parametrize(
    ("written", "hub"),
    [
        ("CC-0", "cc0-1.0"), ("CC0-1.0", "cc0-1.0"), ("CC-BY", "cc-by-4.0"), ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("cc_by_sa_4.0", "cc-by-sa-4.0"), ("", "unknown"), ("unknown", "unknown"), ("Own terms", "other"),
    ],
)  # fmt: skip
def test_spellings_become_the_hubs_identifiers(written: str, hub: str) -> None:
    assert licences.hub_id(written) == hub


@pytest.mark.parametrize(
    ("written", "bound"),
    [("CC BY-NC 4.0", True), ("CC-BY-NC-SA", True), ("Non-commercial use only", True), ("CC-BY 4.0", False),
     ("INCLUSIVE", False), ("", False)],
)  # fmt: skip
def test_non_commercial_terms_are_known_by_name(written: str, bound: bool) -> None:
    assert licences.is_non_commercial(written) is bound


def test_terms_are_counted_per_source_and_warned_of() -> None:
    table = pd.DataFrame(
        {
            "source": ["a", "b", "a", "c"],
            "licence": ["CC-BY", "CC BY-NC 4.0", "CC-BY", None],
            "attribution": ["A", "B", "A", None],
        }
    )
    found = licences.terms(table, "this set")
    assert [(one.source, one.images) for one in found.sources] == [("a", 2), ("b", 1), ("c", 1)]
    assert found.hub == "other"
    assert found.counts == {"CC BY-NC 4.0": 1, "CC-BY": 2, "unknown": 1}
    assert found.together == "CC BY-NC 4.0 AND CC-BY AND unknown"
    assert "Non-commercial" in found.warnings[0] and "b (CC BY-NC 4.0)" in found.warnings[0]
    assert "1 of 4 images" in found.warnings[1]


def test_one_licence_is_that_of_all_and_none_is_unknown() -> None:
    assert licences.terms(pd.DataFrame({"source": ["a"], "licence": ["CC-0"]})).hub == "cc0-1.0"
    assert licences.terms(pd.DataFrame({"source": ["a"]})).hub == "unknown"
    assert licences.terms(pd.DataFrame({"source": []})).hub == "unknown"
