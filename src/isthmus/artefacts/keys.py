"""Keys that sign, and those that are trusted: Ed25519 and NIST's curves, and certificates for code signing.

PEM throughout. A private key is never printed, and its file is for its owner alone. `cryptography` does the
arithmetic and the checking of chains; it is imported where it is used, so that others start without it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from isthmus.artefacts.faults import ArtefactError
from isthmus.core.portfolio import Signer

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

PrivateKey: TypeAlias = "Ed25519PrivateKey | EllipticCurvePrivateKey"
PublicKey: TypeAlias = "Ed25519PublicKey | EllipticCurvePublicKey"
Algorithm: TypeAlias = Literal["ed25519", "p256"]

MOST_BYTES = 64_000
"""No file of keys or certificates is so long."""

_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"


def generate(algorithm: Algorithm) -> tuple[str, str]:
    """A new private key and its public one, as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key: PrivateKey
    if algorithm == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), public_pem(key.public_key())


def keep(private: str, path: Path) -> None:
    """Write a private key into a new file that its owner alone may read. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(private)


def read_private(path: Path) -> str:
    """The text of a private key's file. Raises ArtefactError where others may read it, and OSError."""
    with path.open("rb") as file:
        text = file.read(MOST_BYTES).decode(errors="replace")
        if is_private(text) and os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ArtefactError(
                "bad_key", f"Others may read the private key {path}.", f"Run: chmod 600 {path}"
            )
        return text


def private_key(pem: str, where: str) -> PrivateKey:
    """The private key in the text. Raises ArtefactError (`bad_key`), which names `where` it was found."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own words could quote the text.
        raise ArtefactError(
            "bad_key",
            f"{where} holds no private key in PEM without a password.",
            "Make one: isthmus models keygen release",
        ) from None
    return _fit(key, where)  # type: ignore[return-value]


def signer(pem: str, file: str) -> Signer:
    """Who is trusted by this text: a public key, or an authority whose certificates for code signing are.

    Raises ArtefactError (`bad_key`).
    """
    if is_private(pem):
        raise ArtefactError(
            "bad_key",
            f"{file} holds a private key, and whoever only verifies must not have it.",
            "Name the public key, NAME.pub, and keep the private one where you sign.",
        )
    if pem.count("-----BEGIN ") > 1:
        raise ArtefactError(
            "bad_key", f"{file} holds more than one key or certificate.", "Give each a file of its own."
        )
    text = pem.strip() + "\n"
    found = Signer(file=file, pem=text)
    if _CERTIFICATE in text:
        authority(found)
    else:
        public_key(found)
    return found


def is_private(pem: str) -> bool:
    """True where the text has a private key in it."""
    return "PRIVATE KEY" in pem


def public_key(trusted: Signer) -> PublicKey:
    """The key of a signer that is one. Raises ArtefactError (`bad_key`)."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(trusted.pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ArtefactError(
            "bad_key", f"{trusted.file} holds no public key and no certificate in PEM."
        ) from None
    return _fit(key, trusted.file)  # type: ignore[return-value]


def is_authority(trusted: Signer) -> bool:
    """True where the signer is an authority, and not a key."""
    return _CERTIFICATE in trusted.pem


def authority(trusted: Signer) -> x509.Certificate:
    """The certificate of a signer that is an authority. Raises ArtefactError (`bad_key`)."""
    from cryptography import x509

    try:
        (certificate,) = x509.load_pem_x509_certificates(trusted.pem.encode())
    except ValueError:
        raise ArtefactError("bad_key", f"{trusted.file} holds no single certificate in PEM.") from None
    try:
        extensions = certificate.extensions
        issues = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        issues = issues and extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except (x509.ExtensionNotFound, ValueError):
        issues = False
    if not issues:
        raise ArtefactError(
            "bad_key",
            f"{trusted.file} is not the certificate of an authority: that has the constraint CA:TRUE and the "
            "usage keyCertSign.",
            "Name the authority that issues your signing certificates, or a public key.",
        )
    return certificate


def certificates(pem: str, where: str) -> list[x509.Certificate]:
    """The certificates in the text, the signing one first. Raises ArtefactError (`bad_key`)."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise ArtefactError("bad_key", f"{where} holds no certificate in PEM.") from None


def key_of_chain(chain: Sequence[bytes], trusted: Signer, now: dt.datetime) -> PublicKey:
    """The signing certificate's key, where the authority has issued it for code signing and it is valid now.

    Raises ValueError, which says why not. `chain` is DER, the signing certificate first. Names, validity,
    constraints and signatures are checked as RFC 5280 wants it. The signing certificate is no authority, its
    key may make signatures, and its usage for code signing is demanded, critical or not. An authority that
    names usages has to name that one, too.
    """
    from cryptography import x509
    from cryptography.x509 import verification as check
    from cryptography.x509.oid import ExtendedKeyUsageOID

    def signs_code(_: object, __: object, usage: x509.ExtendedKeyUsage | None) -> None:
        if usage is None or ExtendedKeyUsageOID.CODE_SIGNING not in usage:
            raise ValueError("not for code signing")

    def makes_signatures(_: object, __: object, usage: x509.KeyUsage | None) -> None:
        if usage is not None and not usage.digital_signature:
            raise ValueError("not for signatures")

    def issues_nothing(_: object, __: object, constraints: x509.BasicConstraints | None) -> None:
        if constraints is not None and constraints.ca:
            raise ValueError("an authority's own")

    def issues_for_code(_: object, __: object, usage: x509.ExtendedKeyUsage | None) -> None:
        named = {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        if usage is not None and named.isdisjoint(usage):
            raise ValueError("an authority in it may not issue for code signing")

    either = check.Criticality.AGNOSTIC
    of_leaf = (
        check.ExtensionPolicy.permit_all()
        .require_present(x509.ExtendedKeyUsage, either, signs_code)
        .may_be_present(x509.KeyUsage, either, makes_signatures)
        .may_be_present(x509.BasicConstraints, either, issues_nothing)
    )
    # The library's own rule is for TLS: it wants authorities that issue for clients.
    of_authorities = check.ExtensionPolicy.webpki_defaults_ca().may_be_present(
        x509.ExtendedKeyUsage, either, issues_for_code
    )
    try:
        leaf, *between = [x509.load_der_x509_certificate(it) for it in chain]
        verifier = (
            check.PolicyBuilder()
            .store(check.Store([authority(trusted)]))
            .time(now)
            .extension_policies(ca_policy=of_authorities, ee_policy=of_leaf)
            .build_client_verifier()
        )
        verifier.verify(leaf, between)
    except check.VerificationError as fault:
        raise ValueError(f"no chain for code signing leads to it that is valid now ({fault})") from None
    try:
        return _fit(leaf.public_key(), "the certificate")  # type: ignore[return-value]
    except ArtefactError as fault:
        raise ValueError(fault.message) from None


def public_pem(key: PublicKey) -> str:
    """The public key as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(key: PublicKey) -> str:
    """The SHA-256 of the key's PEM in lower-case hex: the hint by which model-signing tells keys apart."""
    return hashlib.sha256(public_pem(key).encode()).hexdigest()


def sign(key: PrivateKey, message: bytes) -> bytes:
    """The signature: RFC 8032 for Ed25519, else ECDSA in DER with the curve's own SHA-2."""
    from cryptography.hazmat.primitives.asymmetric import ec

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(_hash_for(key.curve.key_size)))
    return key.sign(message)


def is_signed(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """True where the key's owner has signed the message."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(_hash_for(key.curve.key_size)))
        else:
            key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _hash_for(bits: int) -> HashAlgorithm:
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[bits]


def _fit(key: object, where: str) -> object:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    curved = (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)
    if isinstance(key, curved) and key.curve.name in _CURVES:
        return key
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return key
    raise ArtefactError(
        "bad_key", f"{where} holds a key of another kind.", "Use Ed25519, or the curves P-256, P-384, P-521."
    )
