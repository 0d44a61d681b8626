import statistics

from tools.bench_time import AT_MOST, measure_time
from tools.figures import Side
from tools.home import Home


def test_the_authority_is_measured_against_a_signature_that_nobody_checks(home: Home) -> None:
    token, served = measure_time(home, 8)
    assert token.budget is not None
    assert (token.budget.side, token.budget.value) == (Side.AT_MOST, AT_MOST)
    assert len(token.samples) == 8
    assert statistics.median(token.samples) > 1  # the floor is in it
    assert served.unit == "/s"
    assert min(served.samples) > 1
