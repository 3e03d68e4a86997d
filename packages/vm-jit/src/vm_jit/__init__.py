"""Native execution: an interpreter and a JIT made by LLVM from the instruction texts of vm_core."""
