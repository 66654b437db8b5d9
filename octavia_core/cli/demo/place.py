"""Where the demo takes place: a state directory, a controller in a process of its own, and what they leave behind."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator

__all__ = ["SERVER_NAME", "ControllerProcess", "agent_pid", "leftovers", "make_certificate"]

SERVER_NAME = "demo.example"
_LISTEN = "0A"
"""TCP_LISTEN in /proc/net/tcp (proc(5))."""


class ControllerProcess:
    """`octavia-admin up` as a process of its own, so that it can be killed. It ends with the demo, whatever happens.

    Args:
        state: the state directory.
        patience: seconds that it may take to be ready.
    """

    def __init__(self, state: str, *, patience: float = 60.0) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "octavia_core.cli", "up", "--state", state, "--json", "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,
        )
        assert self._process.stdout is not None
        timer = threading.Timer(patience, self._process.kill)
        timer.start()
        try:
            ready = self._process.stdout.readline()
        finally:
            timer.cancel()
        if '"ready": true' not in ready:
            self._process.wait()
            self._said.seek(0)
            words = " ".join(self._said.read().split()).removeprefix("Error: ")
            self._close()
            raise RuntimeError(f"the controller did not start: {words or 'it said nothing'}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, as a machine would die under it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._close()

    def end(self, patience: float = 20.0) -> None:
        """SIGTERM, and SIGKILL when that does not help. Twice is harmless."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        self._said.close()
        if self._process.stdout is not None:
            self._process.stdout.close()


def make_certificate(state: str, name: str) -> ssl.SSLContext:
    """Put a fresh self-signed certificate into the file secrets of a state directory; a context that trusts just it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, SERVER_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder = os.path.join(state, "secrets")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd = os.open(os.path.join(folder, f"{name}.pem"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(pem + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem.decode("ascii"))
    return context


def agent_pid(state: str, amphora_id: str) -> int:
    """The process of a local amphora's agent."""
    with open(os.path.join(state, "amphorae", amphora_id, "process.json"), encoding="utf-8") as file:
        return int(json.load(file)["pid"])


def leftovers(state: str, network: str, rows: Callable[[], list[str]]) -> list[str]:
    """What is still there of the load balancers of a state directory: processes, ports, files, rows. Empty is right.

    Args:
        state: the directory.
        network: its network on loopback: VIPs and agents.
        rows: says which rows are still there.
    """
    found = [f"process {pid}: {words}" for pid, words in _processes(state)]
    found += [f"port {place} is still listened on" for place in _listening(ipaddress.IPv4Network(network))]
    for folder in ("amphorae", "network/vips", "network/plugs"):
        with contextlib.suppress(FileNotFoundError):
            found += [f"file {folder}/{name}" for name in sorted(os.listdir(os.path.join(state, folder)))]
    return found + rows()


def _processes(state: str) -> Iterator[tuple[int, str]]:
    """Processes of this user that have the state directory on their command line, except this one and its parents."""
    own = set()
    pid = os.getpid()
    while pid > 1:
        own.add(pid)
        pid = _parent(pid)
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in own:
            continue
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = os.fsdecode(file.read()).split("\0")
        except OSError:
            continue
        if any(word == state or word.startswith(state + os.sep) for word in words):
            yield int(name), " ".join(words).strip()


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[1])


def _listening(network: ipaddress.IPv4Network) -> Iterator[str]:
    with open("/proc/net/tcp", encoding="ascii") as file:
        for line in list(file)[1:]:
            fields = line.split()
            host, _, port = fields[1].partition(":")
            address = ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(host), sys.byteorder))
            if fields[3] == _LISTEN and address in network:
                yield f"{address}:{int(port, 16)}"
