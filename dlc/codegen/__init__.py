"""Code generation: Compute to Kernel (schedules) and Kernel to native code."""
