"""Lowering: a node of an optimised graph becomes kernel calls. Which way it is computed is decided here."""
