"""Text that is shown: plurals and escapes."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_opensandbox.text import counted, escape


@pytest.mark.parametrize(
    ("number", "noun", "phrase"),
    [
        pytest.param(1, ("byte",), "1 byte", id="one"),
        pytest.param(0, ("byte",), "0 bytes", id="none"),
        pytest.param(2000, ("copy", "copies"), "2,000 copies", id="a plural of its own"),
    ],
)
def test_a_noun_agrees_with_its_number(number, noun, phrase):
    assert counted(number, *noun) == phrase


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a\tb\nc", "a\tb\nc", id="tab and line break stay"),
        pytest.param("héllo 🐍 漢字", "héllo 🐍 漢字", id="printable text stays"),
        pytest.param("漢\u30001\u00a0000 €", "漢\u30001\u00a0000 €", id="spaces of all scripts stay"),
        pytest.param("👩\u200d💻\ufe0f می\u200cخواهم", "👩\u200d💻\ufe0f می\u200cخواهم", id="joiners stay"),
        pytest.param("\u200f\u2066\ufeff\u00ad", r"\u200f\u2066\ufeff\xad", id="other format characters"),
        pytest.param("\x1b[31mred\x07", r"\x1b[31mred\x07", id="terminal escapes"),
        pytest.param("50%\r100%", r"50%\r100%", id="carriage return"),
        pytest.param("one\r\ntwo", "one\ntwo", id="line end of another system"),
        pytest.param("\0", r"\x00", id="NUL"),
        pytest.param("\u202egnp.exe", r"\u202egnp.exe", id="bidirectional override"),
        pytest.param("\u2028", r"\u2028", id="line separator"),
        pytest.param("\ud800", r"\ud800", id="lone surrogate"),
        pytest.param("\ufffe", r"\ufffe", id="what is no character"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text, shown):
    assert escape(text) == shown


@given(st.text(st.characters(), max_size=40))
def test_escaped_text_is_legal_xml_whatever_it_was(text):
    element = ElementTree.Element("property", value=escape(text))
    element.text = escape(text)

    parsed = ElementTree.fromstring(ElementTree.tostring(element, encoding="unicode"))

    assert (parsed.text or "") == escape(text)
