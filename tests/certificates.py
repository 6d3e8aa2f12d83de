"""A certificate authority for tests, and certificates that it signs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Files:
    """A certificate and its key on disk."""

    cert: Path
    key: Path

    def replace_with(self, other: Files) -> None:
        """Replace this certificate by another."""
        os.replace(other.key, self.key)
        os.replace(other.cert, self.cert)

    @property
    def serial(self) -> int:
        return x509.load_pem_x509_certificate(self.cert.read_bytes()).serial_number


class Authority:
    """Signs certificates for `127.0.0.1` and for names."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        self._count = 0
        self.file = directory / "ca.pem"
        self.file.write_bytes(self._sign(self._key, self._name, ca=True).public_bytes(serialization.Encoding.PEM))

    def issue(self, *names: str) -> Files:
        """A certificate for these DNS names, and for 127.0.0.1."""
        self._count += 1
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else "server")])
        files = Files(self._directory / f"{self._count}.pem", self._directory / f"{self._count}.key")
        files.cert.write_bytes(self._sign(key, subject, *names).public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    def _sign(
        self, key: ec.EllipticCurvePrivateKey, subject: x509.Name, *names: str, ca: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        if not names:
            alternatives.append(x509.IPAddress(ip_address("127.0.0.1")))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self._key, hashes.SHA256())
        )
