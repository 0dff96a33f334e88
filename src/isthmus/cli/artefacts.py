"""`isthmus models keygen|sign|verify|bom|lineage`: the supply chain of weights."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from isthmus.artefacts import declaration, keys
from isthmus.artefacts.bom import bill
from isthmus.artefacts.faults import ArtefactError
from isthmus.artefacts.formats import check_files
from isthmus.artefacts.lineage import Ancestor, Known, lineages
from isthmus.artefacts.manifest import Report, digests, followed, identity, opened
from isthmus.artefacts.signing import sign as sign_artefact
from isthmus.artefacts.verify import verified
from isthmus.cli.options import told
from isthmus.cli.progress import ProgressLine
from isthmus.core.portfolio import Signer
from isthmus.providers.engines.fetch import Progress

POISONED = 3
"""The status where an artefact descends from something quarantined."""

_SHOWN_FROM = 100_000_000
"""So many bytes are hashed so fast that nobody has to be told how far it is."""

_artefact = click.argument("path", type=click.Path(path_type=Path, exists=True))
_json = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@click.command()
@click.argument("name", type=click.Path(path_type=Path))
@click.option(
    "--type",
    "algorithm",
    type=click.Choice(["ed25519", "p256"]),
    default="ed25519",
    show_default=True,
    help="Of which kind; the tool model-signing verifies p256 only.",
)
@told
def keygen(name: Path, algorithm: keys.Algorithm) -> None:
    """Make a key that signs.

    NAME signs, and NAME.pub verifies. NAME is for you alone and is never printed; the key's fingerprint is.
    """
    public_path = name.with_name(f"{name.name}.pub")
    for path in (name, public_path):
        if path.exists():
            raise ArtefactError("bad_key", f"{path} is there already.", "Choose another name.")
    private, public = keys.generate(algorithm)
    keys.keep(private, name)
    public_path.write_text(public)
    click.echo(keys.fingerprint(keys.public_key(keys.signer(public, str(public_path)))))
    click.echo(f"Keep {name} secret: who has it speaks for you. {public_path} is for `signers:`.", err=True)


@click.command()
@_artefact
@click.option(
    "--key", required=True, help="The private key: its file, or env:NAME of a variable that holds it in PEM."
)
@click.option(
    "--cert",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The key's certificate in PEM, and behind it those between it and its authority.",
)
@click.option(
    "--accept-template", help="The SHA-256 of a chat template that is signed in spite of what is found in it."
)
@_json
@told
def sign(path: Path, key: str, cert: Path | None, accept_template: str | None, as_json: bool) -> None:
    """Look an artefact through and sign it.

    It is a folder with artefact.json, or a GGUF file. Writes bom.cdx.json into the folder and PATH.sig beside
    it. What is no plain number or text, and a chat template that does more than templates do, is not signed.
    """
    private = keys.private_key(_key_text(key), key)
    chain = _chain(cert, private) if cert is not None else []
    with _hashing(path) as report:
        done = sign_artefact(path, private, chain, accepted_template=accept_template, report=report)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    for finding in done.noted:
        mark = "accepted" if finding.grave else "note"
        click.echo(
            f"{mark}: template, line {finding.line}: {_in_words(finding.kind)}{finding.what}", err=True
        )
    click.echo(done.signature)
    click.echo(
        f"Signed {done.files} files as artefact {done.identity}, with the key {done.fingerprint}.", err=True
    )


@click.command()
@_artefact
@click.option(
    "--signer",
    "signers",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A public key, or the certificate of an authority; repeat. One of them must have signed.",
)
@_json
@told
def verify(path: Path, signers: tuple[Path, ...], as_json: bool) -> None:
    """Say whether an artefact is what was signed.

    To the last byte and file, it has to be what one of the signers has signed: else the status is 1. It is
    what happens before every start of an engine with `signers`.
    """
    trusted = [_signer(file) for file in signers]
    with (
        _hashing(path) as report,
        verified(path, trusted, dt.datetime.now(dt.UTC), report=report) as found,
    ):
        check_files(found.files)
        said = _declaration(found.files[declaration.FILE].read()) if declaration.FILE in found.files else None
    if as_json:
        answer = {
            "artefact": found.identity,
            "signer": found.signer,
            "key": found.fingerprint,
            "files": dict(found.digests),
            "declaration": said,
        }
        click.echo(msgspec.json.encode(answer))
        return
    click.echo(found.identity)
    click.echo(
        f"Verified: {len(found.digests)} files, signed by {found.signer} (key {found.fingerprint}).", err=True
    )
    if said is not None:
        base = f", for the base {said.base.name} ({said.base.sha256})" if said.base is not None else ""
        click.echo(f"It is the {said.kind} {said.name}{base}.", err=True)


@click.command()
@_artefact
@told
def bom(path: Path) -> None:
    """Print an artefact's bill of materials.

    It is CycloneDX 1.6 with a model card, as JSON. `isthmus models sign` writes the same, and the signer,
    into the artefact.
    """
    said = declaration.of_folder(path)
    with _hashing(path) as report, opened(followed(path)) as files:
        click.echo(bill(said, digests(files, report)), nl=False)


@click.command()
@_artefact
@click.option(
    "--quarantine",
    "quarantined",
    multiple=True,
    help="A hash, or PROVIDER, PROVIDER/SURFACE or PROVIDER/SURFACE/MODEL of a teacher; repeat.",
)
@click.option(
    "--quarantined",
    "list_",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file of these, one a line; # begins a comment.",
)
@_json
@told
def lineage(path: Path, quarantined: tuple[str, ...], list_: Path | None, as_json: bool) -> None:
    """Show from what artefacts descend.

    PATH is one of them, or a folder of many. Who descends from something quarantined is poisoned, over any
    number of generations: status 3. What artefacts say of themselves is taken as it is; verify them to know
    who says it.
    """
    out = [*quarantined, *(_lines(list_) if list_ is not None else ())]
    one = (path / declaration.FILE).is_file()
    found = lineages(list(_known(path.resolve().parent if one else path.resolve())), out)
    found = [it for it in found if not one or it.folder == path.resolve().name]
    if not found:
        raise ArtefactError(
            "artefact_malformed", f"There is no artefact in {path}.", "Each has artefact.json."
        )
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        for it in found:
            poison = f"  POISONED by {', '.join(it.poisoned_by)}" if it.poisoned_by else ""
            click.echo(f"{it.name}  {it.identity}{poison}")
            _show(it.ancestors, 1)
    if any(it.poisoned_by for it in found):
        raise SystemExit(POISONED)


@contextmanager
def _hashing(path: Path) -> Iterator[Report]:
    line = ProgressLine()
    try:
        yield (
            lambda done, total: (
                line(Progress(f"hashing {path.name}", done, total)) if total > _SHOWN_FROM else None
            )
        )
    finally:
        line.end()


def _show(ancestors: Sequence[Ancestor], depth: int) -> None:
    for it in ancestors:
        mark = "  QUARANTINED" if it.quarantined is not None else ""
        click.echo(f"{'  ' * depth}{it.kind} {it.name}  {it.known_by[0]}{mark}")
        _show(it.ancestors, depth + 1)


def _known(folder: Path) -> Iterator[Known]:
    for path in sorted(folder.iterdir()):
        if not (path / declaration.FILE).is_file():
            continue
        said = declaration.of_folder(path)
        with _hashing(path) as report, opened(path) as files:
            hashes = digests(files, report)
        if said.weights not in hashes:
            raise ArtefactError("artefact_malformed", f"{path} has no {said.weights}.")
        yield Known(folder=path.name, identity=identity(hashes), weights=hashes[said.weights], said=said)


def _lines(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _key_text(key: str) -> str:
    source, _, name = key.partition(":")
    if source == "env":
        if not os.environ.get(name):
            raise ArtefactError(
                "bad_key", f"The environment variable {name} is not set.", f"Set it: export {name}="
            )
        return os.environ[name]
    return keys.read_private(Path(name if source == "file" else key))


def _chain(cert: Path, private: keys.PrivateKey) -> list[bytes]:
    from cryptography.hazmat.primitives.serialization import Encoding

    found = keys.certificates(_text(cert), str(cert))
    if found[0].public_key() != private.public_key():
        raise ArtefactError(
            "bad_key", f"The first certificate in {cert} is not the key's.", "Put the signing one first."
        )
    return [it.public_bytes(Encoding.DER) for it in found]


def _signer(file: Path) -> Signer:
    return keys.signer(_text(file), str(file))


def _text(file: Path) -> str:
    with file.open("rb") as opened_file:
        return opened_file.read(keys.MOST_BYTES).decode(errors="replace")


def _declaration(content: bytes) -> declaration.Declaration:
    return declaration.read(content, declaration.FILE)


def _in_words(kind: str) -> str:
    return "it says: " if kind == "says" else ""
