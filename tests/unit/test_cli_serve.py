"""What `isthmus serve` does to its process before it serves, and what it warns of."""

from __future__ import annotations

import resource

import pytest

from isthmus.cli.serve import raise_file_limit, warning_without_keys


def test_as_many_files_as_allowed_may_be_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        pytest.skip("some systems do not take their own hard limit here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "gateway.internal"])
def test_a_host_that_others_reach_is_warned_of(host: str) -> None:
    assert host in (warning_without_keys(host) or "")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_is_not(host: str) -> None:
    assert warning_without_keys(host) is None
