"""Patterns of a search, compared with base names."""

import pytest

from pytest_opensandbox.embedded.agent.patterns import BadPatternError, matcher


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        pytest.param("*.txt", "a.txt", True, id="star"),
        pytest.param("**/*.txt", "a.txt", True, id="double star and slash stand for nothing"),
        pytest.param("**", "a.txt", True, id="double star"),
        pytest.param("d/*.txt", "a.txt", False, id="a directory never matches"),
        pytest.param("?.txt", "é.txt", True, id="one character"),
        pytest.param("[a-c].txt", "b.txt", True, id="class"),
        pytest.param("[!a-c].txt", "b.txt", False, id="class negated"),
        pytest.param("[^a-c].txt", "d.txt", True, id="class negated the other way"),
        pytest.param("{a,b}.{txt,sh}", "b.sh", True, id="alternatives"),
        pytest.param("{a,{b,c}}x", "cx", True, id="alternatives in alternatives"),
        pytest.param("a+b", "aab", False, id="no regular expression"),
        pytest.param("\\*", "*", True, id="escaped star"),
        pytest.param("!(*.txt)", "a.txt", False, id="negation"),
        pytest.param("*!(.txt)", "a.sh", True, id="negation after a star"),
        pytest.param("A.txt", "a.txt", False, id="case counts"),
        pytest.param(".*", ".profile", True, id="hidden files are files"),
        pytest.param("*", "a\nb", True, id="a line break is a character"),
    ],
)
def test_a_pattern_is_compared_with_the_base_name(pattern, name, matches):
    assert matcher(pattern)(name) is matches


@pytest.mark.parametrize("pattern", ["[", "a[]", "{", "{a", "}", "\\", "!", "!(a"])
def test_a_bad_pattern_is_only_noticed_when_there_is_a_name_to_compare(pattern):
    compare = matcher(pattern)

    with pytest.raises(BadPatternError):
        compare("a")
