from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from derm_t2im import manifest
from derm_t2im.errors import UserError

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "image_id": st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8),
            "path": st.just("a.png"),
            "kind": st.sampled_from(["real", "synthetic"]),
            "label": st.sampled_from(["benign", "malignant"]),
            "age": st.none() | st.floats(0, 120),
            "width": st.none() | st.integers(1, 10_000),
            "seed_image": st.none() | st.booleans(),
            "site": st.none() | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
        }
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda row: row["image_id"],
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(rows=ROWS, data=st.data())
def test_equal_content_gives_equal_bytes(tmp_path: Path, rows: list[dict[str, object]], data: st.DataObject) -> None:
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    manifest.write(pd.DataFrame(rows), first)
    shuffled = data.draw(st.permutations(rows))
    columns = data.draw(st.permutations(list(rows[0])))
    manifest.write(pd.DataFrame(shuffled)[list(columns)], second)
    assert first.read_bytes() == second.read_bytes()
    again = manifest.read(first)
    assert list(again["image_id"]) == sorted(row["image_id"] for row in rows)
    manifest.write(again, second)
    assert first.read_bytes() == second.read_bytes()


GOOD = pd.DataFrame({"image_id": ["b", "a"], "path": "p", "kind": "real", "label": "benign"})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (GOOD.assign(colour="red"), "colour"),
        (GOOD.drop(columns="label"), "label"),
        (GOOD.assign(image_id="a"), "not unique"),
        (GOOD.assign(image_id=[None, "a"]), "missing in a row"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, table: pd.DataFrame, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        manifest.write(table, tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dvc repro"):
        manifest.read(tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(UserError, match="not a manifest"):
        manifest.read(tmp_path / "m.parquet")


def test_an_empty_table_keeps_its_types(tmp_path: Path) -> None:
    columns = ["image_id", "path", "kind", "label", "seed_image", "age"]
    manifest.write(manifest.empty(columns), tmp_path / "m.parquet")
    assert list(manifest.read(tmp_path / "m.parquet").columns) == columns
