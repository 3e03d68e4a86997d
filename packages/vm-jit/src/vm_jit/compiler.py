"""LLVM: IR text in, object bytes out. The only module that imports llvmlite, and only when something is compiled."""

from __future__ import annotations

import hashlib
import platform
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vm_core.errors import EngineUnavailable

__all__ = ["compile_text", "host_key", "source_digest"]

_lock = threading.Lock()
_local = threading.local()


def _machine(level: int) -> tuple[Any, Any]:
    """(llvmlite.binding, a target machine of this thread)."""
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise EngineUnavailable(
            f"compiling needs llvmlite: {error}", hint="python -m pip install llvmlite, or use --engine reference"
        ) from None
    made = getattr(_local, "machines", None)
    if made is None:
        made = _local.machines = {}
        with _lock:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
    if level not in made:
        triple = llvm.get_process_triple()
        if platform.system() != "Linux":
            # HOST: always ELF objects, which our own loader reads, whatever the host's format.
            triple = triple.split("-")[0] + "-unknown-none-elf"
        made[level] = llvm.Target.from_triple(triple).create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=level,
            reloc="pic",
            codemodel="small",
        )
    return llvm, made[level]


def compile_text(text: str, *, passes: str = "full", level: int = 2) -> bytes:
    """Compile a module to a relocatable ELF object for this host. ``passes``: ``full`` (O1's pipeline) or ``region``
    (the few passes that pay for guest code)."""
    llvm, machine = _machine(level)
    module = llvm.parse_assembly(text)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2 if passes == "full" else 1))
    if passes == "full":
        builder.getModulePassManager().run(module, builder)
    else:
        manager = llvm.create_new_function_pass_manager()
        manager.add_sroa_pass()
        manager.add_instruction_combine_pass()
        manager.add_simplify_cfg_pass()
        manager.add_new_gvn_pass()
        manager.add_licm_pass() if hasattr(manager, "add_licm_pass") else None
        manager.add_instruction_combine_pass()
        manager.add_simplify_cfg_pass()
        for function in module.functions:
            if not function.is_declaration:
                manager.run(function, builder)
    return bytes(machine.emit_object(module))


@cache
def host_key() -> str:
    """What compiled code depends on besides its text: the processor, its features, and LLVM's version."""
    try:
        llvm = version("llvmlite")
    except PackageNotFoundError:
        llvm = "none"
    parts = [platform.machine(), platform.system(), llvm]
    try:
        info = Path("/proc/cpuinfo").read_text()
        seen = {}
        for line in info.split("\n\n", 1)[0].splitlines():
            key, _, value = line.partition(":")
            seen[key.strip()] = value.strip()
        parts += [seen.get(key, "") for key in ("vendor_id", "cpu family", "model", "flags", "Features", "CPU part")]
    except OSError:
        parts.append(platform.processor())
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


@cache
def source_digest(*packages: str) -> str:
    """A hash of the source files that define an ISA and its translation: a changed text makes old code unusable.

    ``packages`` are directories relative to vm_core or vm_jit, as ``vm_core/isa/riscv``.
    """
    import vm_core
    import vm_jit

    roots = {"vm_core": Path(vm_core.__path__[0]), "vm_jit": Path(vm_jit.__path__[0])}
    digest = hashlib.blake2b(digest_size=16)
    for name in packages:
        root, _, rest = name.partition("/")
        place = roots[root] / rest
        for path in sorted(place.glob("*.py")) if place.is_dir() else [place]:
            digest.update(path.name.encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()
