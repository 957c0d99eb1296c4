"""Lets the small graphs of tests use as many threads as they ask for."""

import os

os.environ.setdefault("DLC_SHORT_RUN", "0")
