"""The runtime: buffers, threads, executables, state, checkpoints and the code cache."""
