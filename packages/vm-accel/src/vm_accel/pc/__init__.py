"""Linux machines of x86-64 around vCPUs: memory, tables, a serial port and virtio devices. Needs no firmware.

``backend`` makes a :class:`~vm_accel.pc.machine.PcMachine` over KVM. What a guest controls is read once and checked before it is
used: :mod:`vm_accel.pc.virtio` for rings, :mod:`vm_accel.pc.linux` for kernels.
"""
