"""Linux programs of the host's own ISA in a hardware-isolated address space, at native speed, without a kernel beside them."""
