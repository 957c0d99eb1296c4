"""Frontends: ways to make a graph. Each imports ``dlc.ir`` only."""
