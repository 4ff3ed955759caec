"""Texts as HTML: nothing runs, nothing is hidden."""

from __future__ import annotations

import pytest

from diq.reporting.markup import cut, escaped, marked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script> & \"'", "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;&#x27;"),
        ("a\u202eb", "a⟦U+202E⟧b"),
        ("a\u2028b\u2029c\x00d\x1be\x85f", "a⟦U+2028⟧b⟦U+2029⟧c⟦U+0000⟧d⟦U+001B⟧e⟦U+0085⟧f"),
        ("pass\u200bword\ufeff\u00ad\u2066", "pass⟦U+200B⟧word⟦U+FEFF⟧⟦U+00AD⟧⟦U+2066⟧"),
        ("\U000e0041\U000e007f", "⟦U+E0041⟧⟦U+E007F⟧"),
        ("line\r\nline\n\ttab", "line\nline\n\ttab"),
        # joiners belong to Persian words and to emoji, and to nothing else
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d⚕️", "👩\u200d⚕️"),
        ("a \u200d b", "a ⟦U+200D⟧ b"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_a_reader_sees(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_code_points_are_set_apart_and_named() -> None:
    assert marked("a\u202e<b>") == ('a<span class="hidden" title="right-to-left override">U+202E</span>&lt;b&gt;')
    assert "<script" not in marked("⟦U+003C⟧script")


def test_a_cut_text_says_how_much_is_left() -> None:
    assert cut("abc", 10) == ("abc", 0)
    assert cut("a" * 11, 10) == ("a" * 11, 0), "a few more are not worth a cut"
    assert cut("a" * 1000, 10) == ("a" * 10, 990)
