"""The Linux user ABI: system calls, signals and threads of a guest process, on the host's own."""
