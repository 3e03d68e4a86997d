"""A debugger's stub: gdb's remote protocol for a guest process (``vm run -g PORT``).

``packets`` frames bytes, ``target`` describes an ISA's registers, ``control`` stops and resumes guest threads, ``server``
answers a client.
"""
