"""The driver layer: where passes, code generation and runtime meet."""
