"""The intermediate representations: graphs of tensors, index-space computes, loop kernels, plans."""
