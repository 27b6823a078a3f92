"""Reference cases for `x2ct check`; run tools/make_golden.py."""
