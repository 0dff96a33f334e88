"""The table of presets keeps its promises."""

from __future__ import annotations

import pytest
from genai_prices.data_snapshot import get_snapshot

from isthmus.catalog.presets import DIALECTS, PRESETS, QUIRKS, Preset, find_preset
from isthmus.config import urls
from isthmus.dialects import endpoint_wires

ROWS = pytest.mark.parametrize("row", PRESETS, ids=lambda row: row.name)


@ROWS
def test_a_row_can_be_called(row: Preset) -> None:
    assert find_preset(row.name) is row
    assert sum(1 for value in (row.base_url, row.base_url_form, row.engine, row.client) if value) == 1
    for url in filter(None, (row.base_url, row.base_url_form)):
        assert urls.what_is_wrong(url) is None
    if row.key_env is None:
        assert row.base_url is None or urls.is_loopback(row.base_url), "a hosted provider has a key"


@ROWS
def test_a_row_speaks_of_what_exists(row: Preset) -> None:
    assert row.quirks <= QUIRKS.keys()
    assert row.prices is None or row.prices in {provider.id for provider in get_snapshot().providers}
    assert row.docs.startswith("https://")


def test_names_are_unique() -> None:
    assert len({row.name for row in PRESETS}) == len(PRESETS)


def test_every_wire_has_a_codec() -> None:
    for row in (*PRESETS, *DIALECTS.values()):
        assert tuple(wire.name for wire in endpoint_wires(row.wires, row.quirks)) == row.wires
