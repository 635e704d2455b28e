"""A Cluster of three Valkey servers, a Sentinel group, and a TLS front, all of the test's own."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

from streammachine.redis.embedded.server import find_binary
from streammachine.redis.transport.cluster import slot_of
from support.valkey import Valkey, free_port, wait_until

NODES = 3


def _cluster_port() -> int:
    """A free port whose Cluster bus port (10,000 above) is free and valid too."""
    while True:
        port = free_port()
        if port <= 55000:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port + 10000)) != 0:
                    return port


@contextmanager
def cluster(folder: Path, *, replicas: bool = False, durable: bool = False) -> Iterator[list[Valkey]]:
    """Three primaries that share the slots, then with ``replicas`` the replica of each in this order; ends them all.

    ``durable``: what was acknowledged survives kill -9.
    """
    nodes: list[Valkey] = []
    count = 2 * NODES if replicas else NODES
    try:
        for number in range(count):
            options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0"]
            options += ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
            node = Valkey(folder / f"node{number}", *options)
            node.port = _cluster_port()
            node.start()
            nodes.append(node)
        clients = [redis.Redis(port=node.port) for node in nodes]
        share = 16384 // NODES
        for number, client in enumerate(clients):
            if number < NODES:
                last = 16383 if number == NODES - 1 else (number + 1) * share - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)

        def settled() -> bool:
            infos = [bytes(client.execute_command("CLUSTER", "INFO")) for client in clients]
            return all(b"cluster_state:ok" in info and b"cluster_known_nodes:%d\r" % count in info for info in infos)

        wait_until(settled, 60)
        for primary, replica in zip(clients[:NODES], clients[NODES:], strict=False):
            replica.execute_command("CLUSTER", "REPLICATE", primary.execute_command("CLUSTER", "MYID"))
        replicas_of = clients[NODES:]
        wait_until(lambda: all(each.info("replication").get("master_link_status") == "up" for each in replicas_of), 20)
        for client in clients:
            client.close()
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def serving(nodes: list[Valkey], key: str) -> Valkey:
    """The node that serves a key's slot."""
    slot = slot_of(key)
    for node in nodes:
        try:
            with redis.Redis(port=node.port) as client:
                rows = client.execute_command("CLUSTER", "SLOTS")
        except redis.ConnectionError:
            continue
        port = next(int(row[2][1]) for row in rows if row[0] <= slot <= row[1])
        return next(node for node in nodes if node.port == port)
    raise AssertionError("no node answers")


def owner_of(nodes: list[Valkey], key: str) -> int:
    """The number of the node that has the key's slot, as the first one sees it."""
    return _owner(nodes, slot_of(key))


def _owner(nodes: list[Valkey], slot: int) -> int:
    with redis.Redis(port=nodes[0].port) as client:
        rows = client.execute_command("CLUSTER", "SLOTS")
    port = next(row[2][1] for row in rows if int(row[0]) <= slot <= int(row[1]))
    return next(number for number, node in enumerate(nodes) if node.port == port)


class Move:
    """A slot on its way from its node to another, as ``valkey-cli --cluster reshard`` moves one."""

    def __init__(self, nodes: list[Valkey], slot: int, to: int) -> None:
        self.slot = slot
        self._clients = [redis.Redis(port=node.port) for node in nodes]
        self._ids = [client.execute_command("CLUSTER", "MYID").decode() for client in self._clients]
        self._from = _owner(nodes, slot)
        self._to = to
        self._port = nodes[to].port
        assert self._from != to

    def begin(self) -> None:
        """From now on a key that is not at the old node is asked for at the new one."""
        self._clients[self._to].execute_command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._ids[self._from])
        self._clients[self._from].execute_command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._ids[self._to])

    def carry(self, key: str) -> None:
        self._clients[self._from].execute_command("MIGRATE", "127.0.0.1", self._port, key, 0, 60_000)

    def keys(self) -> list[str]:
        """What is at the old node yet."""
        found = self._clients[self._from].execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 1000)
        return [key.decode() for key in found]

    def finish(self) -> None:
        """Carry the rest, and tell all nodes."""
        while keys := self.keys():
            for key in keys:
                self.carry(key)
        others = [number for number in range(len(self._clients)) if number not in (self._from, self._to)]
        for number in (self._to, self._from, *others):
            self._clients[number].execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", self._ids[self._to])
        for client in self._clients:
            client.close()


class Sentinels:
    """A primary, a replica, and one Sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.primary = Valkey(folder / "primary")
        self.replica = Valkey(folder / "replica")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/mymaster"

    def __enter__(self) -> Sentinels:
        self.primary.start()
        self.replica.options = ("--replicaof", "127.0.0.1", str(self.primary.port))
        self.replica.start()
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.primary.port} 1\n"
            "sentinel down-after-milliseconds mymaster 2000\nsentinel failover-timeout mymaster 3000\n"
        )
        with (self.folder / "sentinel.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_binary(), str(config), "--sentinel"], stdin=subprocess.DEVNULL, stdout=log
            )

        def knows_replica() -> bool:
            try:
                with redis.Redis(port=self.port) as client:
                    return bool(client.execute_command("SENTINEL", "REPLICAS", "mymaster"))
            except redis.RedisError:
                return False

        wait_until(knows_replica)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        self.primary.stop()
        self.replica.stop()


class TlsFront:
    """Takes TLS connections and passes their bytes on to a plain server: the bundled Valkey is built without TLS."""

    def __init__(self, folder: Path, to_port: int) -> None:
        self.port = free_port()
        self.certificate = folder / "cert.pem"
        self._to_port = to_port
        _write_certificate(self.certificate, folder / "key.pem")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, folder / "key.pem")
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> TlsFront:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in [self._server, *self._sockets]:
            with_shutdown(one)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._server.accept()
            except OSError:
                return
            try:
                client = self._context.wrap_socket(plain, server_side=True)
            except (ssl.SSLError, OSError):
                plain.close()
                continue
            upstream = socket.create_connection(("127.0.0.1", self._to_port))
            self._sockets += [client, upstream]
            for source, target in ((client, upstream), (upstream, client)):
                thread = threading.Thread(target=_pump, args=(source, target), daemon=True)
                self._threads.append(thread)
                thread.start()


def with_shutdown(one: socket.socket) -> None:
    """Close a socket so that a thread that waits on it wakes."""
    with suppress(OSError):  # it was not connected, or is closed already
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # one side is gone; so is the other below
        while data := source.recv(65536):
            target.sendall(data)
    with_shutdown(target)


def _write_certificate(certificate: Path, key: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
