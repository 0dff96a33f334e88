"""A signature of OpenSSF Model Signing: a Sigstore bundle around an in-toto statement of names and hashes.

https://github.com/sigstore/model-transparency (format 1.0), https://github.com/secure-systems-lab/dsse
(protocol and envelope 1.0), https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md. The
bundle is Sigstore's version 0.3, without a transparency log: nothing here speaks to a network.

Reading is strict where the reference is lenient: one signature, one subject, whole files with SHA-256, names
in order and once, no field that is not known. What a statement says is to be ignored is not ignored.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from isthmus.artefacts import keys
from isthmus.artefacts.faults import ArtefactError
from isthmus.artefacts.manifest import MOST_FILES, Digests, order
from isthmus.core.portfolio import Signer

MOST_BYTES = 1_000_000
"""No signature of so few files is so long."""

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Subject(_Strict, frozen=True, kw_only=True):
    name: str
    digest: dict[str, str]


class _Serialization(_Strict, frozen=True, kw_only=True):
    method: Literal["files"] = "files"
    hash_type: Literal["sha256"] = "sha256"
    allow_symlinks: bool = False
    ignore_paths: tuple[str, ...] = ()


class _Resource(_Strict, frozen=True, kw_only=True):
    name: str
    algorithm: Literal["sha256"] = "sha256"
    digest: str


class _Predicate(_Strict, frozen=True, kw_only=True):
    serialization: _Serialization = _Serialization()
    resources: tuple[_Resource, ...]


class _Statement(_Strict, frozen=True, kw_only=True):
    type: str = msgspec.field(default=STATEMENT_TYPE, name="_type")
    subject: tuple[_Subject, ...]
    predicate_type: str = msgspec.field(default=PREDICATE_TYPE, name="predicateType")
    predicate: _Predicate


class _Signature(_Strict, frozen=True, kw_only=True):
    sig: str
    keyid: str = ""


class _Envelope(_Strict, frozen=True, kw_only=True, rename="camel"):
    payload: str
    payload_type: str = PAYLOAD_TYPE
    signatures: tuple[_Signature, ...]


class _PublicKey(_Strict, frozen=True, kw_only=True):
    hint: str


class _Certificate(_Strict, frozen=True, kw_only=True, rename="camel"):
    raw_bytes: str


class _Chain(_Strict, frozen=True, kw_only=True):
    certificates: tuple[_Certificate, ...]


class _Material(_Strict, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    public_key: _PublicKey | None = None
    x509_certificate_chain: _Chain | None = msgspec.field(default=None, name="x509CertificateChain")
    tlog_entries: tuple[()] | None = None


class _Bundle(_Strict, frozen=True, kw_only=True, rename="camel"):
    media_type: str = MEDIA_TYPE
    verification_material: _Material
    dsse_envelope: _Envelope


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What a trusted signer has signed: the hash of each file by its name, and whose signature it is.

    `signer` is the file of the key or authority in the config, `fingerprint` the signing key's.
    """

    digests: dict[str, str]
    signer: str
    fingerprint: str


def signed(name: str, digests: Digests, private: keys.PrivateKey, chain: Sequence[bytes] = ()) -> bytes:
    """The signature's file: over these hashes, under the artefact's `name`, with a certificate's chain (DER,
    the signing one first) where there is one."""
    payload = msgspec.json.encode(_statement(name, digests))
    material = _Material(
        public_key=None if chain else _PublicKey(hint=keys.fingerprint(private.public_key())),
        x509_certificate_chain=_Chain(certificates=tuple(_Certificate(raw_bytes=_base64(it)) for it in chain))
        if chain
        else None,
        tlog_entries=(),
    )
    envelope = _Envelope(
        payload=_base64(payload),
        signatures=(_Signature(sig=_base64(keys.sign(private, pre_authentication(payload)))),),
    )
    return msgspec.json.encode(_Bundle(verification_material=material, dsse_envelope=envelope)) + b"\n"


def checked(content: bytes, signers: Sequence[Signer], now: dt.datetime) -> Seal:
    """What the file of a signature vouches for. Raises ArtefactError: `artefact_unverified`.

    `now` is when certificates have to be valid. Nothing of the content is used before one of the signers was
    found to have signed it, except to choose among them.
    """
    bundle = _decoded(content)
    envelope = bundle.dsse_envelope
    if envelope.payload_type != PAYLOAD_TYPE:
        raise _refused(f"its payload is {envelope.payload_type[:60]!r}, not {PAYLOAD_TYPE}")
    if len(envelope.signatures) != 1:
        raise _refused(f"it has {len(envelope.signatures)} signatures, and must have one")
    payload, signature = _bytes(envelope.payload), _bytes(envelope.signatures[0].sig)
    answers = []
    for signer in signers:
        try:
            key = _key(bundle.verification_material, signer, now)
        except ValueError as why:
            answers.append(f"{signer.file}: {why}")
            continue
        if keys.is_signed(key, signature, pre_authentication(payload)):
            return Seal(digests=_resources(payload), signer=signer.file, fingerprint=keys.fingerprint(key))
        answers.append(f"{signer.file}: not this key's")
    raise ArtefactError(
        "artefact_unverified",
        f"The signature is by nobody who is trusted here, or was altered ({'; '.join(answers)}).",
        "Get the artefact anew, or name its signer's public key.",
    )


def pre_authentication(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding of the payload and its type."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _statement(name: str, digests: Digests) -> _Statement:
    resources = tuple(_Resource(name=file, digest=digests[file]) for file in sorted(digests, key=order))
    return _Statement(
        subject=(_Subject(name=name, digest={"sha256": _root(resources)}),),
        predicate=_Predicate(resources=resources),
    )


def _root(resources: Sequence[_Resource]) -> str:
    """The subject's hash: of the resources' hashes, one after another as bytes."""
    return hashlib.sha256(b"".join(bytes.fromhex(it.digest) for it in resources)).hexdigest()


def _decoded(content: bytes) -> _Bundle:
    if len(content) > MOST_BYTES:
        raise _refused("it is too long")
    try:
        bundle = msgspec.json.decode(content, type=_Bundle)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise _refused(f"it is not one of OpenSSF Model Signing ({fault})") from None
    if bundle.media_type != MEDIA_TYPE:
        raise _refused(f"it is {bundle.media_type[:60]!r}, not {MEDIA_TYPE}")
    return bundle


def _key(material: _Material, signer: Signer, now: dt.datetime) -> keys.PublicKey:
    """The key that the signature must be by, if it is this signer's; raises ValueError where it cannot be."""
    chain = material.x509_certificate_chain
    if (material.public_key is None) == (chain is None):
        raise _refused("it names not exactly one of a key and a certificate")
    if chain is not None:
        if not keys.is_authority(signer):
            raise ValueError("a key, and it was signed with a certificate")
        return keys.key_of_chain([_bytes(it.raw_bytes) for it in chain.certificates], signer, now)
    if keys.is_authority(signer):
        raise ValueError("an authority, and it was signed without a certificate")
    return keys.public_key(signer)


def _resources(payload: bytes) -> dict[str, str]:
    """The hashes by name of a statement whose signature was found good."""
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise _refused(f"its statement is not one of OpenSSF Model Signing 1.0 ({fault})") from None
    if statement.type != STATEMENT_TYPE:
        raise _refused(f"its statement is a {statement.type[:60]!r}, not {STATEMENT_TYPE}")
    if statement.predicate_type != PREDICATE_TYPE:
        raise _refused(f"its statement is about {statement.predicate_type[:60]!r}, not {PREDICATE_TYPE}")
    resources = statement.predicate.resources
    names = [it.name for it in resources]
    if not 0 < len(names) <= MOST_FILES:
        raise _refused(f"it names {len(names)} files; 1 to {MOST_FILES} are allowed")
    if len(set(names)) != len(names):
        raise _refused("it names a file twice")
    if names != sorted(names, key=order):
        raise _refused("its names are out of order")
    if not all(_SHA256.fullmatch(it.digest) for it in resources):
        raise _refused("a hash in it is no SHA-256 in lower-case hex")
    if len(statement.subject) != 1 or statement.subject[0].digest != {"sha256": _root(resources)}:
        raise _refused("its subject is not the one artefact that its hashes make")
    return dict(zip(names, (it.digest for it in resources), strict=True))


def _refused(why: str) -> ArtefactError:
    return ArtefactError(
        "artefact_unverified", f"The signature cannot be used: {why}.", "Get the artefact anew, or sign it."
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _refused("what should be Base64 in it is not") from None
