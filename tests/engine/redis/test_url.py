"""Redis URLs: what is accepted, what is refused and why, and that no password is shown."""

from __future__ import annotations

import ssl
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import SettingsError
from streammachine.redis_url import Endpoint, mask_url, parse_url, with_db


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("redis://localhost", Endpoint()),
        ("redis://", Endpoint()),
        ("REDIS://Example.COM:7000/3", Endpoint("example.com", 7000, db=3)),
        ("valkey://h/0", Endpoint("h")),
        ("redis://[::1]:7000", Endpoint("::1", 7000)),
        ("redis://h?db=5", Endpoint("h", db=5)),
        ("redis://h/2?db=5", Endpoint("h", db=5)),
        ("redis://h?cluster=false", Endpoint("h")),
        ("rediss://h", Endpoint("h", tls=True)),
        ("valkeys://h:1", Endpoint("h", 1, tls=True)),
        ("redis://:pw@h", Endpoint("h", password="pw")),
        ("redis://me:pw@h", Endpoint("h", username="me", password="pw")),
        ("unix:///run/valkey.sock", Endpoint(path="/run/valkey.sock")),
        ("unix:///run/a%20%40b.sock?db=2", Endpoint(path="/run/a @b.sock", db=2)),
        ("unix://:pw@/run/v.sock", Endpoint(path="/run/v.sock", password="pw")),
        ("unix:///run/me@home/v.sock", Endpoint(path="/run/me@home/v.sock")),
    ],
)
def test_a_url_is_parsed(url: str, endpoint: Endpoint) -> None:
    assert parse_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h", "scheme must be one of redis://, rediss://"),
        ("localhost:6379", "scheme must be one of"),
        ("", "scheme must be one of"),
        ("redis://h:0", "port must be a whole number from 1 to 65535"),
        ("redis://h:65536", "port must be a whole number"),
        ("redis://h:x", "port must be a whole number"),
        ("redis://h/x", "database 'x' is not a whole number"),
        ("redis://h/-1", "database '-1'"),
        ("redis://h/" + "9" * 5000, "is not a whole number"),
        ("redis://h?timeout=5", "option 'timeout' is not known; known are db"),
        ("redis://h?ssl_cert_reqs=none", "option 'ssl_cert_reqs' needs TLS; write rediss://"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs must be one of none, optional, required"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname must be one of true, false"),
        ("unix://", "names no socket"),
        ("redis://:a/b@h", "must be percent-encoded"),
        ("redis://:a#b@h", "must be percent-encoded"),
        ("redis://:a?b@h", "must be percent-encoded"),
        ("redis://[h", "cannot be parsed"),
    ],
)
def test_a_url_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_url(url)
    assert why in str(caught.value)


@given(password=st.text(min_size=1), user=st.text(alphabet=string.printable))
def test_any_password_survives_percent_encoding_and_is_never_shown(password: str, user: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in password):
        return
    url = f"redis://{quote(user, safe='')}:{quote(password, safe='')}@h:7000/1"
    endpoint = parse_url(url)
    assert endpoint == Endpoint("h", 7000, db=1, username=user or None, password=password)
    assert repr(endpoint) == repr(Endpoint("h", 7000, db=1))
    assert mask_url(url) == f"redis://{quote(user, safe='')}:***@h:7000/1"


@given(
    password=st.text(alphabet=string.punctuation + "0123456789", min_size=1), tail=st.sampled_from(["", "/0", "?db=1"])
)
def test_a_password_that_is_not_encoded_is_never_shown(password: str, tail: str) -> None:
    secret = f"hunter2{password}hunter2"
    url = f"redis://me:{secret}@h:7000{tail}"
    assert "hunter2" not in mask_url(url)
    try:
        endpoint = parse_url(url)
    except SettingsError as error:
        assert "hunter2" not in str(error)
    else:
        assert "hunter2" not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("redis://token@h", "redis://***@h"),
        ("redis://h?password=x&db=1", "redis://h?password=***&db=1"),
        ("rediss://h?ssl_keyfile_password=x", "rediss://h?ssl_keyfile_password=***"),
        ("unix:///run/v.sock", "unix:///run/v.sock"),
    ],
)
def test_masking_leaves_the_rest_readable(url: str, masked: str) -> None:
    assert mask_url(url) == masked


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("redis://me:p%40w@h:7000/1", "redis://me:p%40w@h:7000/4"),
        ("redis://h", "redis://h/4"),
        ("rediss://h/0?db=1&ssl_cert_reqs=none", "rediss://h/4?ssl_cert_reqs=none"),
        ("unix:///run/v.sock?db=1", "unix:///run/v.sock?db=4"),
    ],
)
def test_another_database_of_the_same_server(url: str, other: str) -> None:
    assert with_db(url, 4) == other
    assert parse_url(other).db == 4


# --- TLS (the bundled server is built without it, so the context is what can be shown) -------------------------------


def test_plain_urls_have_no_tls() -> None:
    assert parse_url("redis://h").ssl_context() is None


def test_certificate_and_host_name_are_checked_unless_the_url_says_otherwise() -> None:
    context = parse_url("rediss://h").ssl_context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("option", "mode", "checks_name"),
    [
        ("ssl_cert_reqs=none", ssl.CERT_NONE, False),
        ("ssl_cert_reqs=optional", ssl.CERT_OPTIONAL, False),
        ("ssl_check_hostname=false", ssl.CERT_REQUIRED, False),
        ("ssl_cert_reqs=required&ssl_check_hostname=true", ssl.CERT_REQUIRED, True),
    ],
)
def test_the_url_may_ask_for_less(option: str, mode: ssl.VerifyMode, checks_name: bool) -> None:
    context = parse_url(f"rediss://h?{option}").ssl_context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (mode, checks_name)


def test_a_certificate_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(SettingsError, match=r"ssl_ca_certs=.*missing\.pem"):
        parse_url(f"rediss://h?ssl_ca_certs={missing}").ssl_context()
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    with pytest.raises(SettingsError, match=r"ssl_certfile=.*nonsense\.pem"):
        parse_url(f"rediss://h?ssl_certfile={nonsense}").ssl_context()
