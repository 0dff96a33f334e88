"""Untrusted programs, run where they can harm nothing: see docs/design/0018-the-sandbox.md."""
