"""Every environment variable: its default, what it accepts, what it refuses and how it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streammachine.errors import SettingsError
from streammachine.settings import OPTIONAL_TOOLSETS, TOOLSETS, Settings

DEFAULTS = {
    "REDIS_URL": None,
    "REDIS_HOST": "localhost",
    "REDIS_PORT": 6379,
    "REDIS_DB": 0,
    "REDIS_MAX_CONNECTIONS": 10,
    "STREAMMACHINE_RECORDS": 10_000,
    "STREAMMACHINE_COUNT": 10,
    "STREAMMACHINE_DEFAULT_GROUP": "eventengine",
    "STREAMMACHINE_EMBEDDED": "auto",
    "STREAMMACHINE_EMBEDDED_FSYNC": "always",
    "STREAMMACHINE_DATA_DIR": None,
    "STREAMMACHINE_STREAM_MAXLEN": 0,
    "STREAMMACHINE_LOG_LEVEL": "INFO",
    "STREAMMACHINE_LOG_FORMAT": "text",
    "STREAMMACHINE_READ_ONLY": False,
    "STREAMMACHINE_TOOLSETS": ",".join(TOOLSETS),
    "STREAMMACHINE_SIGNING_KEY": None,
    "STREAMMACHINE_HTTP_TOKENS": None,
    "STREAMMACHINE_JWT_JWKS": None,
    "STREAMMACHINE_JWT_ISSUER": None,
    "STREAMMACHINE_JWT_AUDIENCE": None,
    "STREAMMACHINE_DASHBOARD_TOKEN": None,
    "STREAMMACHINE_ALERT_WEBHOOKS": None,
}

ACCEPTED: list[tuple[str, str, Any]] = [
    ("REDIS_URL", "rediss://user:pw@example.com:6390/2", "rediss://user:***@example.com:6390/2"),
    ("REDIS_URL", "unix:///run/valkey.sock?db=3", "unix:///run/valkey.sock?db=3"),
    ("REDIS_HOST", "redis.example.com", "redis.example.com"),
    ("REDIS_HOST", "::1", "::1"),
    ("REDIS_PORT", "1", 1),
    ("REDIS_PORT", " 65535 ", 65535),
    ("REDIS_DB", "15", 15),
    ("REDIS_MAX_CONNECTIONS", "1", 1),
    ("STREAMMACHINE_RECORDS", "1", 1),
    ("STREAMMACHINE_COUNT", "100000", 100_000),
    ("STREAMMACHINE_DEFAULT_GROUP", "workers", "workers"),
    ("STREAMMACHINE_EMBEDDED", "never", "never"),
    ("STREAMMACHINE_EMBEDDED", "always", "always"),
    ("STREAMMACHINE_EMBEDDED_FSYNC", "everysec", "everysec"),
    ("STREAMMACHINE_DATA_DIR", "/srv/data", "/srv/data"),
    ("STREAMMACHINE_STREAM_MAXLEN", "1000", 1000),
    ("STREAMMACHINE_LOG_LEVEL", "debug", "DEBUG"),
    ("STREAMMACHINE_READ_ONLY", "true", True),
    ("STREAMMACHINE_READ_ONLY", "1", True),
    ("STREAMMACHINE_TOOLSETS", "all", ",".join(TOOLSETS)),
    ("STREAMMACHINE_TOOLSETS", " Ohlc, stream ,", "stream,ohlc"),
    ("STREAMMACHINE_TOOLSETS", "all,groups", ",".join((*TOOLSETS, *OPTIONAL_TOOLSETS))),
    ("STREAMMACHINE_TOOLSETS", "groups", "groups"),
    ("STREAMMACHINE_SIGNING_KEY", "sixteen-chars-at", "***"),
    ("STREAMMACHINE_ALERT_WEBHOOKS", " Public, *.Example.org:8443", "public,*.example.org:8443"),
    ("STREAMMACHINE_ALERT_WEBHOOKS", "10.0.0.0/8:80,[::1]:9000,fd00::/8,::1", "10.0.0.0/8:80,[::1]:9000,fd00::/8,::1"),
]

REFUSED = [
    ("REDIS_HOST", "two words", "a host name or address"),
    ("REDIS_HOST", "host/1", "a host name or address"),
    ("REDIS_PORT", "0", "1 to 65535"),
    ("REDIS_PORT", "65536", "1 to 65535"),
    ("REDIS_PORT", "http", "1 to 65535"),
    ("REDIS_DB", "-1", "from 0 up"),
    ("REDIS_MAX_CONNECTIONS", "0", "1 to 10000"),
    ("STREAMMACHINE_RECORDS", "0", "from 1 up"),
    ("STREAMMACHINE_COUNT", "ten", "1 to 100000"),
    ("STREAMMACHINE_DEFAULT_GROUP", "  ", "not empty"),
    ("STREAMMACHINE_EMBEDDED", "yes", "auto, always or never"),
    ("STREAMMACHINE_EMBEDDED_FSYNC", "no", "always or everysec"),
    ("STREAMMACHINE_STREAM_MAXLEN", "-1", "0 (off)"),
    ("STREAMMACHINE_LOG_LEVEL", "loud", "DEBUG, INFO"),
    ("STREAMMACHINE_READ_ONLY", "perhaps", "true or false"),
    ("STREAMMACHINE_TOOLSETS", "stream,moon", "all, or some of stream"),
    ("STREAMMACHINE_TOOLSETS", ",", "all, or some of stream"),
    ("STREAMMACHINE_ALERT_WEBHOOKS", ",", "any, public, or hosts"),
    ("STREAMMACHINE_ALERT_WEBHOOKS", "https://example.org", "any, public, or hosts"),
    ("STREAMMACHINE_ALERT_WEBHOOKS", "example.org:0", "any, public, or hosts"),
    ("STREAMMACHINE_ALERT_WEBHOOKS", "10.0.0.0/99", "any, public, or hosts"),
    ("STREAMMACHINE_ALERT_WEBHOOKS", "*", "any, public, or hosts"),
    ("STREAMMACHINE_ALERT_WEBHOOKS", "a:b:c", "any, public, or hosts"),  # no IPv6, though it looks like it
    ("STREAMMACHINE_ALERT_WEBHOOKS", ",".join(["x.org"] * 101), "any, public, or hosts"),
]


def test_defaults() -> None:
    assert Settings().describe() == DEFAULTS


@pytest.mark.parametrize(("name", "text", "shown"), ACCEPTED)
def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch, name: str, text: str, shown: Any) -> None:
    monkeypatch.setenv(name, text)
    assert Settings().describe() == {**DEFAULTS, name: shown}


@pytest.mark.parametrize(("name", "text", "accepted"), REFUSED)
def test_a_wrong_value_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, text: str, accepted: str) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(SettingsError) as caught:
        Settings()
    message = str(caught.value)
    assert name in message and repr(text) in message and accepted in message


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    settings = Settings()
    assert settings.describe() == DEFAULTS
    assert not settings.redis_is_explicit


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_variable_that_only_has_a_fields_name_is_nobodys(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    monkeypatch.setenv(name.upper().removeprefix("REDIS_"), "7")
    assert Settings().describe() == DEFAULTS


def test_several_wrong_values_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "x")
    monkeypatch.setenv("STREAMMACHINE_COUNT", "y")
    with pytest.raises(SettingsError, match=r"REDIS_PORT='x'.*STREAMMACHINE_COUNT='y'"):
        Settings()


def test_arguments_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMMACHINE_COUNT", "20")
    assert Settings(count=30).count == 30
    with pytest.raises(SettingsError, match="STREAMMACHINE_COUNT=0 is not accepted"):
        Settings(count=0)
    with pytest.raises(SettingsError, match="STREAMMACHINE_TOOLSETS=5 is not accepted"):
        Settings(toolsets=5)


def test_a_misspelt_argument_is_refused_without_its_value() -> None:
    with pytest.raises(SettingsError, match="redis_ulr is not a setting") as caught:
        Settings(redis_ulr="redis://:hunter2@h")
    assert "hunter2" not in str(caught.value)


def test_settings_do_not_change_afterwards() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings().count = 5  # type: ignore[misc]


def test_the_data_directory_is_absolute_and_knows_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir="~/sm").data_dir == tmp_path / "sm"
    assert Settings(data_dir="sm").data_dir == tmp_path / "sm"


# --- which server is named ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, None),
        ({"REDIS_MAX_CONNECTIONS": "3"}, None),
        ({"REDIS_HOST": "h"}, "redis://h:6379/0"),
        ({"REDIS_PORT": "7000"}, "redis://localhost:7000/0"),
        ({"REDIS_DB": "4"}, "redis://localhost:6379/4"),
        ({"REDIS_DB": "0"}, "redis://localhost:6379/0"),
        ({"REDIS_HOST": "::1", "REDIS_PORT": "7000", "REDIS_DB": "4"}, "redis://[::1]:7000/4"),
        ({"REDIS_URL": "valkey://u/1", "REDIS_HOST": "h", "REDIS_PORT": "7000", "REDIS_DB": "4"}, "valkey://u/1"),
    ],
)
def test_any_of_the_four_is_explicit_and_the_url_wins(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.redis_is_explicit == (url is not None)
    if url is not None:
        assert settings.explicit_url() == url


# --- secrets --------------------------------------------------------------------------------------------------------

SECRET_URLS = [
    "redis://:hunter2@h:6379/0",
    "redis://user:hunter2@h",
    "redis://hunter2@h",
    "redis://user:a%40hunter2%2F@h",
    "redis://user:hunter2/x@h",
    "redis://user:hunter2@x@h",
    "redis://user:x#hunter2@h",
    "redis://user:12#hunter2@h",
    "redis://user:12/hunter2@h/0",
    "redis://user:12?hunter2@h/0",
    "redis://user:hunter2@h:port",
    "redis://user:hunter2@h?password=hunter2",
    "http://user:hunter2@h",
    "redis://[hunter2@h",
    "user:hunter2@h",
    "unix://:hunter2/@/run/x.sock",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_password_of_a_url_is_ever_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    try:
        settings = Settings()
    except SettingsError as error:
        assert "REDIS_URL" in str(error)
        shown = repr(error) + str(error)
    else:
        shown = repr(settings) + str(settings) + str(settings.describe()) + str(settings.model_dump())
    assert "hunter2" not in shown


@pytest.mark.parametrize("name", ["REDIS_HOST", "STREAMMACHINE_SIGNING_KEY"])
def test_a_secret_in_another_variable_is_not_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "u:hunter2@h")  # credentials in the host, and a signing key that is too short
    with pytest.raises(SettingsError, match=name) as caught:
        Settings()
    assert "hunter2" not in str(caught.value)


def test_the_signing_key_is_not_shown() -> None:
    settings = Settings(signing_key="hunter2-hunter2-hunter2")
    assert "hunter2" not in repr(settings) + str(settings) + str(settings.describe())
    assert settings.signing_key is not None
    assert settings.signing_key.get_secret_value() == "hunter2-hunter2-hunter2"
