"""Text from others, made fit to be printed and stored: no commands for a terminal, no secrets,
no megabytes.
"""

from __future__ import annotations

import pickle
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wna_ray.errors import ModelError, RunError
from wna_ray.text import MOST_LINE, has_login, plain, printable, redacted, redacted_tree

SECRET = "S3cr/et+Key=="


@pytest.mark.parametrize(
    "text, expected",
    [
        ("http://me:secret@host/w?sig=1&v=2", "http://***@host/w?sig=***&v=***"),
        ("http://token@host/w", "http://***@host/w"),
        ("http://host/w#token", "http://host/w#***"),
        ("http://host/w?token", "http://host/w?***"),
        ("see 'http://a:b@c/d?e=f', then go", "see 'http://***@c/d?e=***', then go"),
        ("s3://KEY:SEC/RET@bucket/run", "s3://***@bucket/run"),
        ("simplecache::http://u:p@h/x", "simplecache::http://***@h/x"),
        ("filecache::s3://a:b@c::http://u:p@h", "filecache::s3://***@c::http://***@h"),
        (
            "http%3A%2F%2Fu%3Ap%40h%2Fx%3Fa%3Db%26c%3Dd",
            "http%3A%2F%2F***%40h%2Fx%3Fa%3D***%26c%3D***",
        ),
        ("http%253A%252F%252Fu%253Ap%2540h", "http%253A%252F%252F***%2540h"),
        ("http://***@host/w?sig=***", "http://***@host/w?sig=***"),
        (
            "cannot read it now (http://host/w?sig=1); wait",
            "cannot read it now (http://host/w?sig=***); wait",
        ),
    ],
)
def test_urls_tell_no_secrets(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "runs/demo",
        "s3://bucket/a@b/c",
        "abfs://box@account.example.org/run",
        "http://host:8080/path@v1/w",
        "memory://run",
        "trained:nets/seed-0",
        "a: b@c",
        "12:30 // x",
        "",
    ],
)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert not has_login(text)


def test_options_of_a_model_are_kept_and_the_url_among_them_hidden() -> None:
    encoded = quote(f"http://me:{SECRET}@host/w.pt?sig={SECRET}&x=1", safe="")
    for address in (encoded, "http://me:S3cr@host/w.pt%3Fsig%3DS3cr"):
        shown = redacted(f"bundled:mnist-cnn?weights={address}&layer=conv1")
        assert "S3cr" not in shown
        assert shown.startswith("bundled:mnist-cnn?weights=http")
        assert shown.endswith("&layer=conv1")


@given(
    st.sampled_from(["http", "https", "s3", "ftp", "gs"]),
    st.text("ABCabc123+/=._~-%", min_size=0, max_size=12),
    st.sampled_from(
        [
            "{u}:{s}@host/p",
            "{s}@host/p",
            "host/p?a=1&sig={s}",
            "host/p?{s}",
            "host/p#{s}",
            "{u}:{s}@host:80/p?x={s}",
        ]
    ),
    st.integers(0, 2),
)
def test_no_planted_secret_is_left(scheme: str, user: str, form: str, times: int) -> None:
    address = f"{scheme}://" + form.format(u=user.replace("/", ""), s="PLANTEDsecret")
    for _ in range(times):
        address = quote(address, safe="")
    assert "PLANTED" not in redacted(f"cannot read '{address}' (no such thing: {address})")
    assert "PLANTED" not in redacted(f"bundled:x?weights={address}&layer=a")


@given(st.text())
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


def test_every_text_in_a_tree_is_redacted_and_nothing_else_is_changed() -> None:
    tree = {"a": ["http://u:p@h", 1, None, True], "b": {"http://k": "x"}, "c": 0.5}
    assert redacted_tree(tree) == {
        "a": ["http://***@h", 1, None, True],
        "b": {"http://k": "x"},
        "c": 0.5,
    }


def test_terminals_are_told_nothing_and_lines_are_kept() -> None:
    assert plain("a\x1b[31mb\nc\u202ed") == "a\ufffd[31mb\ufffdc\ufffdd"
    assert printable("a\x1b]0;x\x07\nb\r\n") == "a\ufffd]0;x\ufffd\nb\ufffd\n"


def test_long_messages_keep_their_beginning_and_their_way_out() -> None:
    shown = printable("model: " + "x" * 50_000 + "; give another")
    assert len(shown) <= MOST_LINE
    assert shown.startswith("model: xx")
    assert shown.endswith("; give another")
    many = printable("a fault\n" * 10_000)
    assert many.count("\n") == 80
    assert many.endswith("(cut: the whole message is longer)")


@pytest.mark.parametrize(
    "text",
    [
        "http://" * 200_000,
        "a://" + "a:@%25" * 200_000,
        "%25" * 400_000,
        "a" * 1_000_000,
        "://@" * 300_000,
    ],
)
def test_messages_made_to_take_long_do_not(text: str) -> None:
    begin = time.process_time()
    printable(text)
    assert time.process_time() - begin < 5


def test_errors_are_printable_wherever_they_are_made() -> None:
    error = ModelError("cannot read 'http://me:pw@host/x?token=t' \x1b[2J")
    assert str(error) == "cannot read 'http://***@host/x?token=***' \ufffd[2J"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (ModelError, str(error))
    assert str(RunError(ValueError("x" * 10**7))).startswith("xxx")
