"""Files in which an operator says what to look for: known by what they say, not by their place."""

from __future__ import annotations

import hashlib
from typing import Literal, TypeAlias

import msgspec

from isthmus.perimeter.detectors import Detector

FileKind: TypeAlias = Literal["terms", "fingerprints", "topics", "gitleaks"]


class RuleFile(msgspec.Struct, frozen=True, order=True):
    """A file of the operator's: terms, fingerprints or a topic under a `name`, or rules for secrets.

    `sha256` is that of what stood at `path` when the config was read.
    """

    kind: FileKind
    name: str
    path: str
    sha256: str

    def detector(self, content: bytes) -> Detector:
        """What finds as the file says. Raises ValueError for content that is not of this kind or hash."""
        if sha256(content) != self.sha256:
            raise ValueError(f"{self.path} has changed since the config was read")
        # Heavy, and not needed where nothing is looked at.
        match self.kind:
            case "terms":
                from isthmus.perimeter.detectors.terms import Terms
                from isthmus.perimeter.views import normalised

                return Terms(self.name, normalised(_text(content)))
            case "fingerprints":
                from isthmus.perimeter.detectors.fingerprints import Fingerprints, load

                return Fingerprints(self.name, load(content))
            case "topics":
                from isthmus.perimeter.detectors import classifier

                return classifier.Classifier(self.name, classifier.load(content))
            case "gitleaks":
                from isthmus.perimeter.detectors.secrets import load_gitleaks

                return load_gitleaks(content)


def sha256(content: bytes) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"This is not UTF-8: byte {error.start} is wrong.") from None
