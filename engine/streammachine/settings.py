"""Every environment variable, in one class.

``Settings()`` reads the environment once. A wrong value raises ``SettingsError``, which names the
variable, the value and what is accepted. Secrets are ``SecretStr``: they never appear in a repr, a
log line or a resource; ``describe()`` gives the masked view that the tools show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from streammachine.errors import SettingsError

TOOLSETS = ("stream", "storage", "health", "object", "ohlc", "agent", "market", "live")
LOG_FORMATS = ("text", "json")
OPTIONAL_TOOLSETS = ("groups",)  # off unless they are named: "all,groups"
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

Embedded = Literal["auto", "always", "never"]
Fsync = Literal["always", "everysec"]

# What a variable accepts, in the words of the error message.
_ACCEPTED = {
    "redis_url": "a redis://, rediss://, valkey://, valkeys:// or unix:// URL",
    "redis_host": "a host name or address",
    "redis_port": "a whole number from 1 to 65535",
    "redis_db": "a whole number from 0 up",
    "redis_max_connections": "a whole number from 1 to 10000",
    "records": "a whole number from 1 up",
    "count": "a whole number from 1 to 100000",
    "default_group": "a name that is not empty",
    "embedded": "auto, always or never",
    "embedded_fsync": "always or everysec",
    "data_dir": "a folder's path",
    "stream_maxlen": "0 (off) or a whole number of entries",
    "log_level": ", ".join(LOG_LEVELS),
    "log_format": "text or json",
    "read_only": "true or false",
    "toolsets": "all, or some of " + ", ".join((*TOOLSETS, *OPTIONAL_TOOLSETS)) + " separated by commas",
    "signing_key": "a text of at least 16 characters",
    "http_tokens": "a file's path",
    "jwt_jwks": "the URL or path of a JWKS document",
    "jwt_issuer": "the issuer of the tokens",
    "jwt_audience": "whom the tokens are for",
    "dashboard_token": "a text of at least 16 characters",
    "alert_webhooks": "any, public, or hosts (name, *.name, address, network; each with :port) separated by commas",
}

MOST_PATTERNS = 100  # of hosts for webhooks
# A name, an address or a network, and a port; runtime.alerts.targets matches hosts with them.
_HOST_PATTERN = re.compile(
    r"(?=.*[a-z0-9])(?:\[[0-9a-f:.]+\]|(?P<network>[0-9a-f:.]+/\d{1,3})|[a-z0-9*_.-]+)(?::(?P<port>\d{1,5}))?"
    r"|(?P<address>[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*)"  # IPv6 without a port
)


def _env(name: str, default: Any, **constraints: Any) -> Any:
    """A field that is read from the environment variable ``name``, and from that alone."""
    return Field(default=default, validation_alias=name, **constraints)


class Settings(BaseSettings):
    """The configuration of one process. Fields and defaults: see the table in the README.

    Arguments, by the fields' names, go before the environment.

    Raises:
        SettingsError: a variable has a value that is not accepted.
    """

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,
        case_sensitive=True,
        str_strip_whitespace=True,
    )

    redis_url: SecretStr | None = _env("REDIS_URL", None)
    redis_host: str = _env("REDIS_HOST", "localhost", pattern=r"^[^\s/?#@]+$")
    redis_port: int = _env("REDIS_PORT", 6379, ge=1, le=65535)
    redis_db: int = _env("REDIS_DB", 0, ge=0)
    redis_max_connections: int = _env("REDIS_MAX_CONNECTIONS", 10, ge=1, le=10_000)
    records: int = _env("STREAMMACHINE_RECORDS", 10_000, ge=1)
    count: int = _env("STREAMMACHINE_COUNT", 10, ge=1, le=100_000)
    default_group: str = _env("STREAMMACHINE_DEFAULT_GROUP", "eventengine", min_length=1)
    embedded: Embedded = _env("STREAMMACHINE_EMBEDDED", "auto")
    embedded_fsync: Fsync = _env("STREAMMACHINE_EMBEDDED_FSYNC", "always")
    data_dir: Path | None = _env("STREAMMACHINE_DATA_DIR", None)
    stream_maxlen: int = _env("STREAMMACHINE_STREAM_MAXLEN", 0, ge=0)
    log_level: str = _env("STREAMMACHINE_LOG_LEVEL", "INFO")
    log_format: str = _env("STREAMMACHINE_LOG_FORMAT", "text")
    read_only: bool = _env("STREAMMACHINE_READ_ONLY", False)
    toolsets: Annotated[tuple[str, ...], NoDecode] = _env("STREAMMACHINE_TOOLSETS", TOOLSETS)
    signing_key: SecretStr | None = _env("STREAMMACHINE_SIGNING_KEY", None, min_length=16)
    http_tokens: Path | None = _env("STREAMMACHINE_HTTP_TOKENS", None)
    jwt_jwks: str | None = _env("STREAMMACHINE_JWT_JWKS", None)
    jwt_issuer: str | None = _env("STREAMMACHINE_JWT_ISSUER", None)
    jwt_audience: str | None = _env("STREAMMACHINE_JWT_AUDIENCE", None)
    dashboard_token: SecretStr | None = _env("STREAMMACHINE_DASHBOARD_TOKEN", None, min_length=16)
    alert_webhooks: Annotated[tuple[str, ...] | None, NoDecode] = _env("STREAMMACHINE_ALERT_WEBHOOKS", None)

    def __init__(self, **values: Any) -> None:
        # pydantic-settings would read a variable of a field's own name too, and "count" may be anybody's.
        try:
            super().__init__(**{_variable(name): value for name, value in values.items()})
        except ValidationError as error:
            raise _settings_error(error) from None

    @field_validator("redis_url")
    @classmethod
    def _usable_url(cls, value: SecretStr | None) -> SecretStr | None:
        from streammachine.redis_url import parse_url

        if value is not None:
            parse_url(value.get_secret_value())
        return value

    @field_validator("data_dir", "http_tokens")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value if value is None else value.expanduser().absolute()

    @field_validator("log_level", mode="before")
    @classmethod
    def _known_log_level(cls, value: Any) -> Any:
        level = str(value).strip().upper()
        if level not in LOG_LEVELS:
            raise ValueError("unknown log level")
        return level

    @field_validator("log_format", mode="before")
    @classmethod
    def _known_log_format(cls, value: Any) -> Any:
        name = str(value).strip().lower()
        if name not in LOG_FORMATS:
            raise ValueError("unknown log format")
        return name

    @field_validator("toolsets", mode="before")
    @classmethod
    def _known_toolsets(cls, value: Any) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        chosen = {str(name).strip().lower() for name in names} - {""} if isinstance(names, Iterable) else set()
        if "all" in chosen:
            chosen = chosen - {"all"} | set(TOOLSETS)
        known = (*TOOLSETS, *OPTIONAL_TOOLSETS)
        if not chosen or chosen - set(known):
            raise ValueError("unknown toolset")
        return tuple(name for name in known if name in chosen)

    @field_validator("alert_webhooks", mode="before")
    @classmethod
    def _known_patterns(cls, value: Any) -> tuple[str, ...] | None:
        parts = value.split(",") if isinstance(value, str) else value
        if parts is None:
            return None
        patterns = tuple(str(part).strip().lower() for part in parts if str(part).strip())
        if not 0 < len(patterns) <= MOST_PATTERNS or not all(_is_host_pattern(pattern) for pattern in patterns):
            raise ValueError("no hosts")
        return patterns

    @property
    def redis_is_explicit(self) -> bool:
        """Whether any of REDIS_URL, REDIS_HOST, REDIS_PORT, REDIS_DB was set (docs/decisions/01-embedded-server.md)."""
        return bool(self.model_fields_set & {"redis_url", "redis_host", "redis_port", "redis_db"})

    def explicit_url(self) -> str:
        """The Redis URL that the four REDIS_ variables name. REDIS_URL wins over the other three."""
        if self.redis_url is not None:
            return self.redis_url.get_secret_value()
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"redis://{host}:{self.redis_port}/{self.redis_db}"

    def describe(self) -> dict[str, Any]:
        """Every setting by its environment variable's name, secrets masked."""
        from streammachine.masking import mask_url

        shown: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = mask_url(value.get_secret_value()) if name == "redis_url" else "***"
            elif name == "jwt_jwks" and value is not None:
                value = mask_url(value)
            elif isinstance(value, Path):
                value = str(value)
            elif isinstance(value, tuple):
                value = ",".join(value)
            shown[_variable(name)] = value
        return shown


def _is_host_pattern(text: str) -> bool:
    found = _HOST_PATTERN.fullmatch(text)
    if found is None or not 0 < int(found["port"] or 1) <= 65535:
        return False
    network = found["network"] or found["address"]
    try:
        return network is None or bool(ip_network(network, strict=False))
    except ValueError:
        return False


def _variable(field: str) -> str:
    """The environment variable behind a field."""
    known = Settings.model_fields.get(field)
    return str(known.validation_alias) if known is not None else field


def _settings_error(error: ValidationError) -> SettingsError:
    """One sentence per wrong variable: its name, its value (secrets left out), what is accepted."""
    fields = {_variable(field): field for field in Settings.model_fields}
    return SettingsError("; ".join(_sentence(problem, fields) for problem in error.errors(include_url=False)))


def _sentence(problem: Mapping[str, Any], fields: Mapping[str, str]) -> str:
    variable = str(problem["loc"][0])
    from streammachine.masking import mask_url

    field = fields.get(variable)
    if field is None:
        return f"{variable} is not a setting; there are {', '.join(fields.values())}"
    reason = problem.get("ctx", {}).get("error")
    if isinstance(reason, SettingsError):  # of REDIS_URL; it shows the URL masked
        return f"REDIS_URL: {reason}"
    given = problem["input"]
    if isinstance(given, str) and (field == "redis_host" or "@" in given or "://" in given):
        given = mask_url(given)  # a URL in the wrong variable
    shown = "(not shown)" if field in ("signing_key", "redis_url") else repr(given)
    return f"{variable}={shown} is not accepted: give {_ACCEPTED[field]}"
