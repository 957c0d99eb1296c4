"""Kernel to native code: LLVM text, the vector math, the thread pool and the dispatcher, and LLVM itself."""
