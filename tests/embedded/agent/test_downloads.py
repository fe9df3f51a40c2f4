"""Ranges of bytes that a download may ask for."""

import pytest

from pytest_opensandbox.embedded.agent.downloads import BadRangeError, first_range


@pytest.mark.parametrize(
    ("header", "span"),
    [
        pytest.param("bytes=2-5", (2, 6), id="from to"),
        pytest.param("bytes=2-", (2, 11), id="from"),
        pytest.param("bytes=-5", (6, 11), id="the last"),
        pytest.param("bytes=-50", (0, 11), id="more than there is"),
        pytest.param("bytes=5-100", (5, 11), id="past the end"),
        pytest.param("bytes=100-, 1-2", (1, 3), id="the first that lies within"),
        pytest.param("bytes=11-", None, id="nothing there"),
    ],
)
def test_a_range_is_cut_to_the_file(header, span):
    assert first_range(header, 11) == span


@pytest.mark.parametrize("header", ["items=0-1", "bytes=5-2", "bytes=a-b", "bytes=3", "bytes=-", "bytes=²-"])
def test_a_range_that_makes_no_sense_is_an_error(header):
    with pytest.raises(BadRangeError):
        first_range(header, 11)
