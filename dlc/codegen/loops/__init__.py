"""Loop nests of pointwise work: bindings, splitting into tasks, vectors along the last axis, transposing reads."""
