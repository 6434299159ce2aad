import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats import proportion

from derm_t2im.errors import UserError
from derm_t2im.intervals import wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_statsmodels(case):
    assert wilson(*case) == pytest.approx(proportion.proportion_confint(*case, method="wilson"), abs=1e-12)


def test_wilson_refuses_more_than_all():
    with pytest.raises(UserError, match="6 of 5"):
        wilson(6, 5)
