"""Of a signed artefact: whatever is changed, anywhere, is found; and no hostile file is more than refused."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.artefacts import signature, template
from isthmus.artefacts.faults import ArtefactError, MalformedWeightsError
from isthmus.artefacts.gguf import read_gguf
from isthmus.artefacts.lineage import lineages
from isthmus.artefacts.manifest import digests, opened, order
from isthmus.artefacts.safetensors import read_tensors
from isthmus.artefacts.verify import signature_path, verified
from tests import artefacts
from tests.artefacts import pair, sign, tiny_weights, write

NOW = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)
PRIVATE, SIGNER = pair()
OTHER_PRIVATE, OTHER_SIGNER = pair("p256", "other.pub")


@pytest.fixture(scope="module")
def pristine() -> Iterator[Path]:
    """A signed artefact that no test may change."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "student", tiny_weights())
        sign(path, PRIVATE)
        yield path


@contextmanager
def copied(pristine: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student"
        shutil.copytree(pristine, path)
        shutil.copy(signature_path(pristine), signature_path(path))
        yield path


def stands(path: Path) -> bool:
    """True where the artefact verifies, or fails in another way than is promised."""
    try:
        with verified(path, (SIGNER,), NOW):
            return True
    except ArtefactError as fault:
        return fault.code not in ("artefact_unverified", "artefact_malformed")


def files_of(path: Path) -> list[Path]:
    return sorted(it for it in path.rglob("*") if it.is_file())


def test_the_untouched_artefact_stands(pristine: Path) -> None:
    assert stands(pristine)


@settings(max_examples=50)
@given(which=st.integers(0, 10_000), at=st.floats(0, 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_any_file_is_found(pristine: Path, which: int, at: float, bit: int) -> None:
    with copied(pristine) as path:
        whole = files_of(path)
        file = whole[which % len(whole)]
        content = bytearray(file.read_bytes())
        content[min(int(at * len(content)), len(content) - 1)] ^= 1 << bit
        file.write_bytes(content)
        assert not stands(path)


@settings(max_examples=50)
@given(which=st.integers(0, 10_000), more=st.binary(max_size=8), keep=st.floats(0, 1))
def test_any_other_length_is_found(pristine: Path, which: int, more: bytes, keep: float) -> None:
    with copied(pristine) as path:
        whole = files_of(path)
        file = whole[which % len(whole)]
        before = file.read_bytes()
        after = before[: int(keep * len(before))] + more
        file.write_bytes(after)
        assert stands(path) == (after == before)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)


@settings(max_examples=50)
@given(parts=st.lists(NAMES, min_size=1, max_size=3), content=st.binary(max_size=4))
def test_any_added_file_is_found(pristine: Path, parts: list[str], content: bytes) -> None:
    with copied(pristine) as path:
        added = path.joinpath(*parts)
        if added.exists():
            return
        try:
            added.parent.mkdir(parents=True, exist_ok=True)
            added.write_bytes(content)
        except OSError:
            return
        assert not stands(path)


@settings(max_examples=50)
@given(first=st.integers(0, 10_000), second=st.integers(0, 10_000))
def test_files_that_have_changed_places_are_found(pristine: Path, first: int, second: int) -> None:
    with copied(pristine) as path:
        whole = files_of(path)
        one, other = whole[first % len(whole)], whole[second % len(whole)]
        ours, theirs = one.read_bytes(), other.read_bytes()
        one.write_bytes(theirs)
        other.write_bytes(ours)
        assert stands(path) == (ours == theirs)


@settings(max_examples=50)
@given(at=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_signature_vouches_for_nothing_else(pristine: Path, at: float, bit: int) -> None:
    with copied(pristine) as path:
        file = signature_path(path)
        content = bytearray(file.read_bytes())
        content[min(int(at * len(content)), len(content) - 1)] ^= 1 << bit
        file.write_bytes(content)
        before = signature.checked(signature_path(pristine).read_bytes(), (SIGNER,), NOW)
        try:
            seal = signature.checked(bytes(content), (SIGNER,), NOW)
        except ArtefactError:
            return
        # Of the whole file, only the hint of the key and the key's id are nobody's word.
        assert seal == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(path=st.integers(0, 10_000), value=JSON)
def test_no_other_value_in_the_bundle_vouches_for_anything_else(
    pristine: Path, path: int, value: Any
) -> None:
    content = signature_path(pristine).read_bytes()
    bundle = json.loads(content)
    places = list(_places(bundle))
    holder, key = places[path % len(places)]
    holder[key] = value
    before = signature.checked(content, (SIGNER,), NOW)
    try:
        assert signature.checked(json.dumps(bundle).encode(), (SIGNER,), NOW) == before
    except ArtefactError as fault:
        code = fault.code
    else:
        return
    assert code == "artefact_unverified"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@given(
    change=st.sampled_from(["drop", "twice", "swap", "upper", "short", "other", "subject"]),
    at=st.integers(0, 99),
)
def test_a_statement_that_is_not_exactly_one_is_refused_though_it_is_signed(change: str, at: int) -> None:
    hashes = {name: f"{number:064x}" for number, name in enumerate(("a", "b/c", "b.d"))}
    bundle = json.loads(signature.signed("x", hashes, artefacts.keys.private_key(PRIVATE, "key")))
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    resources = statement["predicate"]["resources"]
    at %= len(resources)
    match change:
        case "drop":
            resources.pop(at)
        case "twice":
            resources.insert(at, resources[at])
        case "swap":
            resources[0], resources[1] = resources[1], resources[0]
        case "upper":
            resources[at]["digest"] = "AB" * 32
        case "short":
            resources[at]["digest"] = "ab"
        case "other":
            resources[at]["algorithm"] = "blake3"
        case "subject":
            statement["subject"].append(statement["subject"][0])
    whole = b"".join(bytes.fromhex(it["digest"]) for it in resources)
    if change != "drop":
        statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(whole).hexdigest()
    payload = json.dumps(statement).encode()
    key = artefacts.keys.private_key(PRIVATE, "key")
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    signed = artefacts.keys.sign(key, signature.pre_authentication(payload))
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signed).decode()
    with pytest.raises(ArtefactError, match="cannot be used"):
        signature.checked(json.dumps(bundle).encode(), (SIGNER,), NOW)


@given(
    names=st.sets(st.text("ab./-", min_size=1, max_size=6), min_size=1, max_size=6), algorithm=st.booleans()
)
def test_what_is_signed_is_what_is_checked(names: set[str], algorithm: bool) -> None:
    private, signer = (PRIVATE, SIGNER) if algorithm else (OTHER_PRIVATE, OTHER_SIGNER)
    hashes = {name: f"{len(name):064x}" for name in names}
    content = signature.signed("x", hashes, artefacts.keys.private_key(private, "key"))
    seal = signature.checked(content, (OTHER_SIGNER, SIGNER), NOW)
    assert seal.digests == hashes
    assert seal.signer == signer.file
    assert list(seal.digests) == sorted(hashes, key=order)


@given(content=st.binary(max_size=400))
def test_no_bytes_are_more_than_refused_as_a_signature(content: bytes) -> None:
    with pytest.raises(ArtefactError):
        signature.checked(content, (SIGNER,), NOW)


@given(content=st.binary(max_size=300), begin=st.sampled_from([b"", b"GGUF\3\0\0\0", b"GGUF\2\0\0\0"]))
def test_no_bytes_are_more_than_refused_as_gguf(content: bytes, begin: bytes) -> None:
    whole = begin + content
    try:
        read_gguf(io.BytesIO(whole), len(whole))
    except MalformedWeightsError:
        return


@given(at=st.integers(0, 10_000), number=st.integers(0, 2**64 - 1), width=st.sampled_from(["<I", "<Q", "<B"]))
def test_no_number_in_a_gguf_header_leads_out_of_the_file(at: int, number: int, width: str) -> None:
    content = bytearray(artefacts.adapter(width=8, layers=2))
    size = struct.calcsize(width)
    at %= len(content) - size
    struct.pack_into(width, content, at, number % 2 ** (8 * size))
    try:
        found = read_gguf(io.BytesIO(content), len(content))
    except MalformedWeightsError:
        return
    for place in found.tensors.values():
        assert 0 <= place.offset < len(content)
    taken = sorted((it.offset, it.offset + it.size) for it in found.tensors.values())
    assert all(one[1] <= other[0] for one, other in pairwise(taken))


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F7"]),
        "shape": st.lists(st.integers(-1, 4) | st.just(2**62), max_size=3),
        "data_offsets": st.lists(st.integers(-1, 40) | st.just(2**63), min_size=1, max_size=3),
    }
)


@given(
    entries=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRY | JSON, max_size=3),
    length=st.none() | st.integers(0, 2**64 - 1),
    body=st.integers(0, 40),
)
def test_a_safetensors_header_is_true_or_refused(entries: Any, length: int | None, body: int) -> None:
    header = json.dumps(entries).encode()
    whole = struct.pack("<Q", len(header) if length is None else length) + header + bytes(body)
    try:
        tensors, start = read_tensors(io.BytesIO(whole), len(whole))
    except MalformedWeightsError:
        return
    # No gap, no overlap, nothing outside: the tensors are exactly the bytes.
    covered = sorted(it.data_offsets for it in tensors.values())
    assert sum(it.size for it in tensors.values()) == len(whole) - start
    assert all(0 <= begin <= end <= len(whole) - start for begin, end in covered)


@given(text=st.text(st.sampled_from("{}%'\"abc.[]|()= \n\u200b"), max_size=60))
def test_no_text_is_more_than_reported_as_a_template(text: str) -> None:
    for finding in template.lint(text):
        assert finding.line >= 1
        assert finding.what


@given(
    edges=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12),
    bad=st.integers(0, 5),
)
def test_poison_reaches_every_descendant_and_nobody_else(edges: list[tuple[int, int]], bad: int) -> None:
    parents = dict(edges)
    known = [artefacts.known(str(it), base=str(parents[it]) if it in parents else None) for it in range(6)]
    poisoned = {it.name for it in lineages(known, {artefacts.hash_of(str(bad))}) if it.poisoned_by}
    expected = {bad}
    while more := {child for child, parent in parents.items() if parent in expected} - expected:
        expected |= more
    assert poisoned == {str(it) for it in expected}


def test_names_are_listed_in_the_order_of_the_reference(pristine: Path) -> None:
    with opened(pristine) as files:
        assert list(digests(files)) == sorted(files, key=order)
    assert os.path.sep == "/"
