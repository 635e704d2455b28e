"""HTTP for more than this machine: who is let in, what each may do, how often, and what is written down of it."""

from __future__ import annotations

import datetime as dt
import http.client
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastmcp import Client
from fastmcp.exceptions import ToolError
from fastmcp.server.auth.providers.jwt import RSAKeyPair
from joserfc.jwk import RSAKey

from streammachine.redis.embedded.server import EmbeddedServer
from support.golden import golden
from support.http_server import ACCEPT, HttpServer
from support.mcp import LEGACY
from support.servers import until

READER, WRITER, OWNER, MARKET = (name * 6 for name in ("reader", "writer", "owner-", "market"))
LINES = f"""# token,name,scopes
{READER},reader,read
{WRITER},writer,write stream:read
{OWNER},owner,read write delete

{MARKET},market,market
"""
ISSUER, AUDIENCE = "https://issuer.example", "streammachine"
INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
    }
).encode()


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture(scope="module")
def keys() -> RSAKeyPair:
    return RSAKeyPair.generate()


def jwks(pair: RSAKeyPair) -> str:
    key = RSAKey.import_key(pair.public_key).as_dict(private=False)
    return json.dumps({"keys": [{**key, "kid": "one", "use": "sig"}]})


@pytest.fixture(scope="module")
def server(
    shared_server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory, keys: RSAKeyPair
) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("access")
    env = {
        "REDIS_URL": f"{shared_server.url}?db=5",
        "STREAMMACHINE_DATA_DIR": str(folder / "data"),
        "STREAMMACHINE_HTTP_TOKENS": str(private(folder / "tokens", LINES)),
        "STREAMMACHINE_JWT_JWKS": str(private(folder / "jwks.json", jwks(keys))),
        "STREAMMACHINE_JWT_ISSUER": ISSUER,
        "STREAMMACHINE_JWT_AUDIENCE": AUDIENCE,
    }
    with HttpServer(env, folder / "log", "--rate-limit", "0", "--host", "127.0.0.1") as running:
        yield running


def status_for(server: HttpServer, token: str | None) -> int:
    """The status of an initialize with a token."""
    return server.post(INITIALIZE, **({} if token is None else {"Authorization": f"Bearer {token}"}))[0]


def test_nobody_is_let_in_without_a_token_that_is_known(server: HttpServer) -> None:
    assert status_for(server, None) == 401
    assert status_for(server, "") == 401
    assert status_for(server, READER[:-1]) == 401
    assert status_for(server, READER + "x") == 401
    assert status_for(server, "# token") == 401
    assert status_for(server, READER) == 200
    assert READER not in server.log


def test_health_needs_no_token_and_says_nothing_more(server: HttpServer) -> None:
    connection = server.connection()
    connection.request("GET", "/health")
    answer = connection.getresponse()
    assert (answer.status, set(json.loads(answer.read()))) == (200, {"status", "redis"})
    connection.close()


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_scopes_hide_tools_and_refuse_calls(server: HttpServer, mode: Any) -> None:
    reads = {name for name, tool in golden().items() if tool["annotations"]["readOnlyHint"]}
    async with Client(server.url, auth=READER, mode=mode) as client:
        assert {tool.name for tool in await client.list_tools()} == reads
        with pytest.raises(ToolError, match=r"'reader' may not call stream_send: it needs the scope write or stream"):
            await client.call_tool("stream_send", {"stream": "x", "message": {"a": "1"}})
        assert await client.read_resource("streammachine://status")
    async with Client(server.url, auth=WRITER, mode=mode) as client:
        names = {tool.name for tool in await client.list_tools()}
        assert "stream_send" in names
        assert "stream_read" in names  # stream:read
        assert "storage_read" not in names
        assert not [name for name in names if golden()[name]["annotations"]["destructiveHint"]]
        await client.call_tool("stream_send", {"stream": "scoped", "message": {"a": "1"}})
    async with Client(server.url, auth=MARKET, mode=mode) as client:
        names = {tool.name for tool in await client.list_tools()}
        assert names == {name for name in names if name.split("_")[0] in ("runner", "backfill", "candles", "symbols")}
        assert {"runner_start", "runner_list"} <= names
    async with Client(server.url, auth=OWNER, mode=mode) as client:
        assert {tool.name for tool in await client.list_tools()} == set(golden())


def test_what_is_no_tool_needs_the_scope_read(server: HttpServer) -> None:
    body = {"jsonrpc": "2.0", "id": 7, "method": "resources/read", "params": {"uri": "streammachine://config"}}
    status, text = server.post(json.dumps(body).encode(), Authorization=f"Bearer {MARKET}")
    assert status == 403
    assert json.loads(text)["id"] == 7
    assert "scope read for resources/read" in text


@pytest.mark.anyio
async def test_a_caller_s_alert_posts_to_none_of_the_server_s_machine(server: HttpServer) -> None:
    arguments = {"symbol": "BTCUSDT", "condition": "close > 1", "name": "to-here"}
    async with Client(server.url, auth=OWNER) as client:
        for url in ("http://127.0.0.1:6379/", "https://localhost/", "https://10.0.0.1/", "https://169.254.169.254/"):
            with pytest.raises(ToolError, match="none that may be posted to here"):
                await client.call_tool("alert_create", {**arguments, "webhook": url})
        made = await client.call_tool("alert_create", {**arguments, "webhook": "https://hooks.example.org/"})
        assert made.structured_content["created"]
        await client.call_tool("alert_delete", {"name": "to-here"})


def test_a_session_is_its_owners_alone(server: HttpServer) -> None:
    connection = server.connection()
    connection.request("POST", "/mcp", INITIALIZE, {**ACCEPT, "Authorization": f"Bearer {READER}"})
    answer = connection.getresponse()
    answer.read()
    session = {"mcp-session-id": answer.headers["mcp-session-id"]}
    body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}})
    for token, expected in ((READER, 200), (OWNER, 404)):
        connection.request("POST", "/mcp", body, {**ACCEPT, **session, "Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == expected
    connection.close()


@pytest.mark.anyio
async def test_each_write_is_one_line_with_the_tokens_name(server: HttpServer) -> None:
    async with Client(server.url, auth=OWNER) as client:
        await client.call_tool("storage_write", {"key": "audited", "value": 1})
        await client.call_tool("storage_read", {"key": "audited"})
        await client.call_tool("storage_delete", {"key": "audited"})
        await client.call_tool("storage_clear", {})
    async with Client(server.url, auth=READER) as client:
        await client.call_tool("storage_delete", {"key": "audited"}, raise_on_error=False)
    until(lambda: "tool=storage_delete kind=delete refused" in server.log, "the last line")
    lines = [line.partition("streammachine_mcp.audit: ")[2] for line in server.log.splitlines()]
    assert not [line for line in lines if "audited" in line]  # no data
    assert lines.count("caller=owner tool=storage_write kind=write done") == 1
    assert lines.count("caller=owner tool=storage_delete kind=delete done") == 1
    assert lines.count("caller=reader tool=storage_delete kind=delete refused") == 1
    assert lines.count("caller=owner tool=storage_clear kind=delete asks first") == 1
    assert not [line for line in lines if "storage_read" in line]


def test_a_jwt_is_good_for_its_issuer_its_audience_and_its_time(server: HttpServer, keys: RSAKeyPair) -> None:
    def made(pair: RSAKeyPair = keys, **changed: Any) -> str:
        options = {"issuer": ISSUER, "audience": AUDIENCE, "scopes": ["read"], "kid": "one", "subject": "ada"}
        return pair.create_token(**{**options, **changed})

    assert status_for(server, made()) == 200
    assert status_for(server, made(audience="another")) == 401
    assert status_for(server, made(issuer="https://another.example")) == 401
    assert status_for(server, made(expires_in_seconds=-10)) == 401
    assert status_for(server, made(additional_claims={"nbf": 4_000_000_000})) == 401
    assert status_for(server, made(pair=RSAKeyPair.generate())) == 401
    head, claims, signature = made().split(".")
    assert status_for(server, f"eyJhbGciOiJub25lIn0.{claims}.") == 401
    assert status_for(server, f"{head}.{claims[:-2]}.{signature}") == 401
    assert status_for(server, "a.b.c") == 401


@pytest.mark.anyio
async def test_the_keys_of_jwts_are_fetched_from_a_url_and_read_again_from_a_file(
    tmp_path: Path, keys: RSAKeyPair
) -> None:
    from streammachine_mcp.access.jwt import JwtTokens

    token = keys.create_token("ada", ISSUER, AUDIENCE, scopes=["read"], kid="one")
    private(tmp_path / "jwks.json", jwks(keys))
    with socketserver.TCPServer(("127.0.0.1", 0), partial(QuietFiles, directory=str(tmp_path))) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{files.server_address[1]}/jwks.json"
        found = await JwtTokens(url, ISSUER, AUDIENCE).verify_token(token)
        files.shutdown()
    assert found is not None
    assert (found.client_id, found.scopes) == ("ada", ["read"])
    other = RSAKeyPair.generate()
    private(tmp_path / "other.json", jwks(other))
    from_file = JwtTokens(str(tmp_path / "other.json"), ISSUER, AUDIENCE)
    assert await from_file.verify_token(token) is None
    (tmp_path / "jwks.json").rename(tmp_path / "other.json")
    assert await from_file.verify_token(token) is not None


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.anyio
async def test_a_jwts_scopes_are_its_own(server: HttpServer, keys: RSAKeyPair) -> None:
    token = keys.create_token("ada", ISSUER, AUDIENCE, scopes=["stream:read", "admin"], kid="one")
    async with Client(server.url, auth=token) as client:
        assert {tool.name.split("_")[0] for tool in await client.list_tools()} == {"stream"}
    none = keys.create_token("eve", ISSUER, AUDIENCE, scopes=["admin"], kid="one")
    async with Client(server.url, auth=none) as client:
        assert await client.list_tools() == []


def test_the_file_is_read_again_when_it_changes(server_env: dict[str, str], tmp_path: Path) -> None:
    tokens = private(tmp_path / "tokens", f"{READER},reader,read\n")
    with HttpServer({**server_env, "STREAMMACHINE_HTTP_TOKENS": str(tokens)}, tmp_path / "log") as server:
        assert status_for(server, READER) == 200
        private(tmp_path / "new", f"{WRITER},writer,read\n").rename(tokens)
        assert (status_for(server, READER), status_for(server, WRITER)) == (401, 200)
        tokens.chmod(0o644)  # others may read it now: nobody is let in
        assert status_for(server, WRITER) == 401
        until(lambda: "chmod 600" in server.log, "the log says why")
        tokens.chmod(0o600)
        assert status_for(server, WRITER) == 200
        tokens.unlink()
        assert status_for(server, WRITER) == 401
        assert WRITER not in server.log


def test_a_caller_that_asks_too_often_waits_and_others_do_not(server_env: dict[str, str], tmp_path: Path) -> None:
    tokens = private(tmp_path / "tokens", LINES)
    env = {**server_env, "STREAMMACHINE_HTTP_TOKENS": str(tokens)}
    with HttpServer(env, tmp_path / "log", "--rate-limit", "1") as server:
        found = [status_for(server, READER) for _ in range(12)]
        assert found[:2] == [200, 200]
        assert 429 in found
        connection = server.connection()
        connection.request("POST", "/mcp", INITIALIZE, {**ACCEPT, "Authorization": f"Bearer {READER}"})
        answer: http.client.HTTPResponse = connection.getresponse()
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert "Wait" in json.loads(answer.read())["error"]["message"]
        connection.close()
        assert status_for(server, OWNER) == 200
        until(lambda: status_for(server, READER) == 200, "it may ask again")


def test_without_tokens_writes_on_loopback_are_written_down_too(server_env: dict[str, str], tmp_path: Path) -> None:
    with HttpServer(server_env, tmp_path / "log") as server:
        connection = server.connection()
        connection.request("POST", "/mcp", INITIALIZE, ACCEPT)
        answer = connection.getresponse()
        answer.read()
        headers = {**ACCEPT, "mcp-session-id": answer.headers["mcp-session-id"]}
        call = {"name": "storage_write", "arguments": {"key": "k", "value": 1}}
        body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})
        connection.request("POST", "/mcp", body, headers)
        assert connection.getresponse().status == 200
        connection.close()
        until(lambda: "audit: caller=- tool=storage_write kind=write done" in server.log, "the line")


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (LINES, 0o644, "chmod 600"),
        (LINES, 0o640, "chmod 600"),
        ("", 0o600, "has no token"),
        ("only-a-token-of-some-length\n", 0o600, "token,name,scope scope"),
        ("short,reader,read\n", 0o600, "at least 20 characters"),
        (f"{READER},two words,read\n", 0o600, "a name is"),
        (f"{READER},reader,reed\n", 0o600, "unknown scope 'reed'"),
        (f"{READER},reader,\n", 0o600, "at least one scope"),
        (f"{READER},a,read\n{READER},b,read\n", 0o600, "twice"),
        (f"{READER},a,read\n{WRITER},a,read\n", 0o600, "stands once"),
    ],
)
def test_a_file_of_tokens_that_cannot_be_used_is_refused(tmp_path: Path, text: str, mode: int, says: str) -> None:
    from streammachine.errors import SettingsError
    from streammachine_mcp.access.tokens import FileTokens

    path = private(tmp_path / "tokens", text, mode)
    with pytest.raises(SettingsError) as failure:
        FileTokens(path)
    assert says in str(failure.value)
    assert READER not in str(failure.value)


@pytest.mark.parametrize(
    ("env", "options", "says"),
    [
        ({"STREAMMACHINE_HTTP_TOKENS": "/nonexistent"}, [], "cannot be read"),
        ({"STREAMMACHINE_JWT_JWKS": "https://issuer.example/jwks"}, [], "STREAMMACHINE_JWT_ISSUER"),
        (
            {
                "STREAMMACHINE_JWT_JWKS": "http://issuer.example/jwks",
                "STREAMMACHINE_JWT_ISSUER": ISSUER,
                "STREAMMACHINE_JWT_AUDIENCE": AUDIENCE,
            },
            [],
            "https",
        ),
        ({}, ["--host", "0.0.0.0"], "STREAMMACHINE_HTTP_TOKENS"),
        ({}, ["--tls-cert", "/nonexistent"], "--tls-key"),
        ({}, ["--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], "cannot be used"),
        ({}, ["--rate-limit", "-1"], "--rate-limit"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(
    env: dict[str, str],
    options: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from streammachine_mcp import entry

    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert entry._run(entry._parser().parse_args(["--transport", "http", "--port", "0", *options]), None) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert says in line


def test_with_tokens_every_address_is_served_over_tls_by_the_names_given(
    server_env: dict[str, str], tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    env = {**server_env, "STREAMMACHINE_HTTP_TOKENS": str(private(tmp_path / "tokens", LINES))}
    options = ("--host", "0.0.0.0", "--allowed-hosts", "mcp.example", "--tls-cert", str(cert), "--tls-key", str(key))
    with HttpServer(env, tmp_path / "log", *options) as server:
        assert server.url.startswith("https://")
        assert status_for(server, READER) in (200, 421)  # 0.0.0.0 is no name
        bearer = {"Authorization": f"Bearer {READER}"}
        assert server.post(INITIALIZE, Host="mcp.example", **bearer)[0] == 200
        assert server.post(INITIALIZE, Host="mcp.example")[0] == 401
        assert server.post(INITIALIZE, Host="other.example", **bearer)[0] == 421
        assert "unencrypted" not in server.log


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(pem)
    key_path.chmod(0o600)
    return cert_path, key_path
