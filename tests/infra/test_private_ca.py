"""Servers whose certificates are of a private CA, over real TLS on loopback, as docs/storage-and-clusters.md says."""

from __future__ import annotations

import ipaddress
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

USES_S3 = """
from fourmill.infra import storage
fs, _ = storage.filesystem("s3://private")
fs.call_s3("create_bucket", Bucket="private")
storage.put("s3://private/a", b"over TLS", if_absent=True)
with storage.open_binary("s3://private/a") as file:
    assert file.read() == b"over TLS"
"""
USES_HTTPS = """
import os
from fourmill.infra import storage
assert storage.read_bytes(os.environ["AWS_ENDPOINT_URL"] + "/plain") == b"over TLS"
"""


def _certificate(name: str, key: Any, signed_by: tuple[x509.Certificate, Any] | None) -> x509.Certificate:
    """Of a CA of its own, or of 127.0.0.1."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by[0].subject if signed_by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=signed_by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if signed_by:
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signed_by[1].public_key())
        builder = builder.add_extension(here, critical=False).add_extension(issuer, critical=False)
    return builder.sign(signed_by[1] if signed_by else key, hashes.SHA256())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of an S3 server, which also has a plain page, and the file of the CA that signed its certificate."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    folder = tmp_path_factory.mktemp("ca")
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    ca = _certificate("a CA of a test", keys[0], None)
    own = _certificate("127.0.0.1", keys[1], (ca, keys[0]))
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "own.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    (folder / "own.key").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/plain":
            start_response("200 OK", [("Content-Length", "8")])
            return [b"over TLS"]
        return moto(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    pair = (str(folder / "own.pem"), str(folder / "own.key"))
    here = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=pair)
    thread = threading.Thread(target=here.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{here.server_port}", folder / "ca.pem"
    here.shutdown()
    thread.join()


def _run(script: str, address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: clients read where certificates are when they start."""
    kept = {name: value for name, value in os.environ.items() if name not in ("AWS_CA_BUNDLE", "SSL_CERT_FILE")}
    given = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    given |= {"AWS_DEFAULT_REGION": "us-east-1", **variables}
    return subprocess.run([sys.executable, "-c", script], env=kept | given, capture_output=True, text=True)


@pytest.mark.parametrize(("script", "variable"), [(USES_S3, "AWS_CA_BUNDLE"), (USES_HTTPS, "SSL_CERT_FILE")])
def test_a_private_ca_is_believed_when_it_is_named(server: tuple[str, Path], script: str, variable: str) -> None:
    address, ca = server
    done = _run(script, address, **{variable: str(ca)})
    assert done.returncode == 0, done.stderr
    done = _run(script, address)
    assert done.returncode and "CERTIFICATE_VERIFY_FAILED" in done.stderr, done.stderr
