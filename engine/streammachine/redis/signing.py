"""Signed pickles: an object is loaded only when this installation wrote it (docs/decisions/04-signed-pickles.md).

A stored value is ``\\x01SM1`` + HMAC-SHA256 (32 bytes) + pickle. The MAC covers the version, the full Redis
key, the hash field and the payload, so a value cannot be moved to another key. The key is
STREAMMACHINE_SIGNING_KEY, else a random one in ``signing.key`` (mode 0600) in the data directory; it is
never in Redis. ``load_plain`` unpickles for the MCP tools and admits plain data only.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
import pickle
import secrets
from pathlib import Path
from typing import Any

from streammachine.errors import SerializationError, SettingsError, SignatureError, UnsafePickleError
from streammachine.settings import Settings

MAGIC = b"\x01SM1"
MAC_BYTES = 32
PROTOCOL = 5
MIN_KEY_BYTES = 16

# What load_plain may build: values whose construction runs no code of anybody's.
_PLAIN = {
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("builtins", "range"),
    ("builtins", "slice"),
    ("collections", "OrderedDict"),
    ("collections", "deque"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
    ("uuid", "UUID"),
    ("_codecs", "encode"),
}


class Signer:
    """Pickles and unpickles under one key.

    Raises (from its methods):
        SignatureError: unsigned, tampered with, moved, or signed under another key; nothing was loaded.
        SerializationError: the object cannot be pickled.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def from_settings(cls, settings: Settings) -> Signer:
        """The signer of this installation; creates the key file on first use.

        Raises:
            SettingsError: the key file is readable for others, or too short.
        """
        if settings.signing_key is not None:
            return cls(settings.signing_key.get_secret_value().encode())
        return cls(_key_from_file(_data_dir(settings) / "signing.key"))

    def dump(self, value: Any, key: str, field: str = "") -> bytes:
        """Pickle and sign ``value`` for this place."""
        try:
            payload = pickle.dumps(value, protocol=PROTOCOL)
        except Exception as error:  # whatever the object's own __reduce__ raises
            raise SerializationError(
                f"A {type(value).__name__} cannot be stored: {error}. Store plain data (text, numbers, lists, dicts) "
                "or an object that pickle takes."
            ) from error
        return MAGIC + self._mac(payload, key, field) + payload

    def load(self, stored: bytes, key: str, field: str = "") -> Any:
        """Check the signature, then unpickle. Only what this installation signed is ever loaded."""
        payload = self._verified(stored, key, field)
        try:
            return _Unpickler(io.BytesIO(payload)).load()
        except Exception as error:  # whatever the object's own __setstate__ raises
            raise SerializationError(
                f"The value at {_place(key, field)!r} is signed, but cannot be built again: "
                f"{type(error).__name__}: {error}. Its class may have moved or changed since it was stored."
            ) from error

    def load_plain(self, stored: bytes, key: str, field: str = "") -> Any:
        """Check the signature, then unpickle plain data only.

        Raises:
            UnsafePickleError: the pickle asks for a class or function outside the plain ones; it was not loaded.
        """
        payload = self._verified(stored, key, field)
        try:
            return _PlainUnpickler(io.BytesIO(payload)).load()
        except UnsafePickleError:
            raise
        except Exception as error:
            raise UnsafePickleError(f"The stored pickle cannot be shown as plain data: {error}") from error

    def _verified(self, stored: bytes, key: str, field: str) -> bytes:
        place = _place(key, field)
        if not stored.startswith(MAGIC) or len(stored) < len(MAGIC) + MAC_BYTES:
            raise SignatureError(
                f"The value at {place!r} carries no signature of StreamMachine, so it was not loaded. "
                "Something else wrote it; delete it, or write it again through StreamMachine."
            )
        mac, payload = stored[len(MAGIC) : len(MAGIC) + MAC_BYTES], stored[len(MAGIC) + MAC_BYTES :]
        if not hmac.compare_digest(mac, self._mac(payload, key, field)):
            raise SignatureError(
                f"The signature of the value at {place!r} does not fit, so it was not loaded: it was changed, moved, "
                "or signed on a machine with another key. Set the same STREAMMACHINE_SIGNING_KEY on all machines."
            )
        return payload

    def _mac(self, payload: bytes, key: str, field: str) -> bytes:
        mac = hmac.new(self._key, MAGIC, hashlib.sha256)
        for part in (key.encode(), field.encode(), payload):
            mac.update(len(part).to_bytes(8, "big"))
            mac.update(part)
        return mac.digest()


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(key: str, field: str) -> str:
    return f"{key}[{field}]" if field else key


class _Unpickler(pickle.Unpickler):
    """Finds a class that an earlier version stored under another module."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("streammachine."):
            from streammachine.moved import current

            module, name = current(module, name)
        return super().find_class(module, name)


class _PlainUnpickler(pickle.Unpickler):
    """Resolves only the names in ``_PLAIN``; a text codec is the one function among them."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise UnsafePickleError(
            f"The stored pickle asks for {module}.{name}; only plain data is shown here, so it was not loaded. "
            "Read it in Python with RedisObjectStorage or Storage."
        )


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What old pickle protocols use to spell bytes."""
    if encoding != "latin1":
        raise UnsafePickleError(f"The stored pickle asks for the codec {encoding!r}; it was not loaded.")
    return text.encode("latin1")


def _data_dir(settings: Settings) -> Path:
    if settings.data_dir is not None:
        return settings.data_dir
    from streammachine.redis.embedded.server import default_data_dir

    return default_data_dir()


def _key_from_file(path: Path) -> bytes:
    """The key in ``path``; written once, atomically, by whichever process comes first."""
    try:
        if not path.exists():
            _write_new_key(path)
        key = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsError(
            f"The signing key {path} cannot be used ({error.strerror or error}). "
            "Set STREAMMACHINE_SIGNING_KEY, or STREAMMACHINE_DATA_DIR to a directory that you may write."
        ) from error
    if os.name == "posix" and mode & 0o077:
        raise SettingsError(f"The signing key {path} is open to other users. Run: chmod 600 '{path}'")
    if len(key) < MIN_KEY_BYTES:
        raise SettingsError(f"The signing key {path} is too short. Restore it, or delete it to get a new one.")
    return key


def _write_new_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: its key is the key
            os.link(draft, path)
    finally:
        draft.unlink()
