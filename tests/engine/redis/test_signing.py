"""Signed pickles: only what this installation signed for this place is loaded; and the key it signs with."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import multiprocessing
import pickle
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streammachine.errors import SerializationError, SettingsError, SignatureError, UnsafePickleError
from streammachine.redis.signing import MAC_BYTES, MAGIC, Signer
from streammachine.settings import Settings

KEY = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
def signer() -> Signer:
    return Signer(KEY)


class Marker:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Moved:
    def __setstate__(self, state: Any) -> None:
        raise KeyError("a field that this version does not know")

    def __getstate__(self) -> Any:
        return {"a": 1}


# --- the signature --------------------------------------------------------------------------------------------------


@given(value=st.tuples(st.integers(), st.binary()), key=st.text(), field=st.text())
def test_what_was_signed_for_a_place_is_loaded_there(value: Any, key: str, field: str) -> None:
    signer = Signer(KEY)
    assert signer.load(signer.dump(value, key, field), key, field) == value


@given(st.data())
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    signer = Signer(KEY)
    stored = bytearray(signer.dump({"a": (1, 2)}, "k", "f"))
    place = data.draw(st.integers(0, len(stored) - 1))
    stored[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SignatureError):
        signer.load(bytes(stored), "k", "f")


@given(st.integers(0, 80))
def test_any_cut_is_refused(length: int) -> None:
    signer = Signer(KEY)
    stored = signer.dump("x" * 100, "k")
    with pytest.raises(SignatureError):
        signer.load(stored[:length], "k")


@pytest.mark.parametrize("place", [("other", "f"), ("k", "g"), ("kf", ""), ("", "kf"), ("k", ""), ("k\x00f", "")])
def test_a_value_that_was_moved_is_refused(signer: Signer, place: tuple[str, str]) -> None:
    stored = signer.dump((1, 2), "k", "f")
    with pytest.raises(SignatureError, match="changed, moved"):
        signer.load(stored, *place)


def test_nothing_is_unpickled_before_the_signature_fits(signer: Signer, tmp_path: Path) -> None:
    mark = tmp_path / "loaded"
    hostile = pickle.dumps(Marker(mark))
    candidates = [hostile, MAGIC + hostile, MAGIC + bytes(MAC_BYTES) + hostile]
    candidates.append(Signer(b"another" * 5).dump(Marker(mark), "k"))
    candidates.append(signer.dump(1, "k")[: len(MAGIC) + MAC_BYTES] + hostile)
    for stored in candidates:
        for load in (signer.load, signer.load_plain):
            with pytest.raises(SignatureError, match="was not loaded"):
                load(stored, "k")
    assert not mark.exists()


def test_the_error_names_the_place_and_what_to_do(signer: Signer) -> None:
    with pytest.raises(SignatureError, match=r"'k\[f\]' carries no signature.*delete it, or write it again"):
        signer.load(b"something", "k", "f")
    foreign = Signer(b"another" * 5).dump(1, "k")
    with pytest.raises(SignatureError, match="Set the same STREAMMACHINE_SIGNING_KEY on all machines"):
        signer.load(foreign, "k")


def test_what_cannot_be_pickled_or_built_again_is_a_named_error(signer: Signer) -> None:
    with pytest.raises(SerializationError, match="A function cannot be stored"):
        signer.dump(lambda: 1, "k")
    with pytest.raises(SerializationError, match=r"signed, but cannot be built again: KeyError.*Its class may have"):
        signer.load(signer.dump(Moved(), "k"), "k")


# --- plain data only ------------------------------------------------------------------------------------------------

PLAIN: list[Any] = [
    [1, 2.5, "x", None, True, b"\xff", (1, 2), {1: {2}}, frozenset({3})],
    bytearray(b"x"),
    1 + 2j,
    range(3),
    slice(1, 2, 3),
    collections.OrderedDict(a=1),
    collections.deque([1], maxlen=2),
    datetime.datetime(2026, 11, 20, 9, tzinfo=datetime.UTC),
    datetime.timedelta(1),
    datetime.date(2026, 11, 20),
    datetime.time(9, 30),
    decimal.Decimal("1.10"),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data_is_shown(signer: Signer, value: Any) -> None:
    assert signer.load_plain(signer.dump(value, "k"), "k") == value


def raw(payload: bytes) -> Callable[[Signer], bytes]:
    """A payload of our choice with a signature that fits: what somebody with the key could store."""
    return lambda signer: MAGIC + signer._mac(payload, "k", "") + payload


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (lambda signer: signer.dump(Marker(Path("never")), "k"), "asks for"),
        (lambda signer: signer.dump(collections.Counter("aab"), "k"), r"asks for collections\.Counter"),
        (lambda signer: signer.dump(Path("x"), "k"), "asks for pathlib"),
        (lambda signer: signer.dump(print, "k"), r"asks for builtins\.print"),
        (raw(b"cos\nsystem\n(S'true'\ntR."), r"asks for (os|posix)\.system"),
        (raw(b"\x80\x04\x8c\x08builtins\x8c\x0dset.__class__\x93."), "asks for builtins.set.__class__"),
        (raw(b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR."), "codec 'rot13'"),
        (raw(b"Pid\n."), "cannot be shown as plain data"),
        (raw(b""), "cannot be shown as plain data"),
    ],
)
def test_anything_more_is_refused_even_with_a_signature(
    signer: Signer, stored: Callable[[Signer], bytes], why: str
) -> None:
    with pytest.raises(UnsafePickleError, match=why):
        signer.load_plain(stored(signer), "k")
    assert not Path("never").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_bytes_of_every_pickle_protocol_are_plain(signer: Signer, protocol: int) -> None:
    payload = pickle.dumps([b"\x00\xff", "ä"], protocol=protocol)
    assert signer.load_plain(raw(payload)(signer), "k") == [b"\x00\xff", "ä"]


# --- the key --------------------------------------------------------------------------------------------------------


def test_the_key_of_the_settings_makes_no_file(tmp_path: Path) -> None:
    settings = Settings(signing_key="k" * 16, data_dir=tmp_path / "none")
    stored = Signer.from_settings(settings).dump(1, "k")
    assert Signer(b"k" * 16).load(stored, "k") == 1
    assert not (tmp_path / "none").exists()


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "a" / "b")
    path = tmp_path / "a" / "b" / "signing.key"
    stored = Signer.from_settings(settings).dump((1, 2), "k")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_bytes()) == 64
    assert [entry.name for entry in path.parent.iterdir()] == ["signing.key"]
    assert Signer.from_settings(settings).load(stored, "k") == (1, 2)
    other = Settings(data_dir=tmp_path / "c")
    with pytest.raises(SignatureError):
        Signer.from_settings(other).load(stored, "k")


def _first_use(arguments: tuple[Path, Any]) -> bytes:
    data_dir, start = arguments
    start.wait(30)
    return Signer.from_settings(Settings(data_dir=data_dir)).dump("x", "k")


def test_eight_processes_that_race_for_the_first_key_get_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(8) as pool:
        for turn in range(3):
            start = manager.Barrier(8)
            stored = pool.map(_first_use, [(tmp_path / str(turn), start)] * 8, chunksize=1)
            assert len(set(stored)) == 1
            assert [entry.name for entry in (tmp_path / str(turn)).iterdir()] == ["signing.key"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "signing.key"
    path.write_bytes(KEY)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=rf"{path} is open to other users\. Run: chmod 600 '{path}'") as caught:
        Signer.from_settings(Settings(data_dir=tmp_path))
    assert KEY.decode() not in str(caught.value)
    path.chmod(0o600)
    assert Signer.from_settings(Settings(data_dir=tmp_path)).dump(1, "k") == Signer(KEY).dump(1, "k")


def test_a_short_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "signing.key").touch(mode=0o600)
    with pytest.raises(SettingsError, match="is too short"):
        Signer.from_settings(Settings(data_dir=tmp_path))


def test_a_key_file_that_cannot_be_used_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "signing.key").mkdir()
    (tmp_path / "file").touch()
    for data_dir in (tmp_path, tmp_path / "file"):
        with pytest.raises(SettingsError, match=r"signing\.key cannot be used.*STREAMMACHINE_DATA_DIR"):
            Signer.from_settings(Settings(data_dir=data_dir))
