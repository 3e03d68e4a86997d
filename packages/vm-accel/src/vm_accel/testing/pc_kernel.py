"""A kernel for the tests of machines: 64-bit code that says what it was given, uses each device, and switches off.

Some 20,000 instructions in ring 0, since KVM's paravirtual flavour emulates them. Assembled by keystone at LOAD.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

__all__ = [
    "DEVICES_BODY",
    "ECHO_BODY",
    "INTERRUPT_BODY",
    "LOAD",
    "RESET_BODY",
    "SECOND_CPU_BODY",
    "TRIPLE_FAULT_BODY",
    "bzimage",
    "elf",
]

LOAD: Final = 0x20_0000
_ENTRY: Final = LOAD + 0x200
_DATA: Final = LOAD + 0x1_0000
"""Rings and buffers: 64 KiB for each device."""

_COMMON: Final = """
# r12 command line, r13 memory map, r14d its rows, ebp bytes of a row, r15 RSDP, r11 initrd
common:
    mov rsp, {stack}
    mov ecx, 0xC0000080
    rdmsr
    mov rbx, cr0
    shr rbx, 31
    shr eax, 10
    and eax, ebx
    lea rsi, [rip + text_mode]
    call puts
    call puthex
    lea rsi, [rip + text_cs]
    call puts
    mov eax, cs
    call puthex
    lea rsi, [rip + text_line]
    call puts
    mov rsi, r12
    call puts
    lea rsi, [rip + text_rsdp]
    call puts
    mov rax, [r15]
    call puthex
    lea rsi, [rip + text_initrd]
    call puts
    mov rax, r11
    test rax, rax
    jz no_initrd
    mov rax, [r11]
no_initrd:
    call puthex
next_row:
    lea rsi, [rip + text_e820]
    call puts
    mov rax, [r13]
    call puthex
    mov rax, [r13 + 8]
    call puthex
    mov eax, [r13 + 16]
    call puthex
    add r13, rbp
    dec r14d
    jnz next_row
    lea rsi, [rip + text_end]
    call puts
{body}
off:
    mov dx, 0x600
    mov al, 0x34
    out dx, al
stop:
    hlt
    jmp stop

putc:                       # al; waits for the transmitter
    push rdx
    push rax
    mov dx, 0x3FD
putc_wait:
    in al, dx
    test al, 0x20
    jz putc_wait
    mov dx, 0x3F8
    pop rax
    out dx, al
    pop rdx
    ret
puts:                       # rsi, ends with 0
    push rax
puts_next:
    mov al, [rsi]
    inc rsi
    test al, al
    jz puts_done
    call putc
    jmp puts_next
puts_done:
    pop rax
    ret
puthex:                     # rax, with a space before it
    push rcx
    push rbx
    push rax
    mov rbx, rax
    mov al, 0x20
    call putc
    mov ecx, 16
puthex_next:
    rol rbx, 4
    mov al, bl
    and al, 15
    add al, 0x30
    cmp al, 0x3A
    jb puthex_digit
    add al, 0x27
puthex_digit:
    call putc
    dec ecx
    jnz puthex_next
    pop rax
    pop rbx
    pop rcx
    ret

# rdi device, rbx 64 KiB for its rings: descriptors at 0, available at 0x1000, used at 0x2000; ecx queue
negotiate:
    mov eax, [rdi]
    cmp eax, 0x74726976
    jne bad
    mov eax, [rdi + 4]
    cmp eax, 2
    jne bad
    mov dword ptr [rdi + 0x70], 0
    mov dword ptr [rdi + 0x70], 3
    mov dword ptr [rdi + 0x24], 1
    mov dword ptr [rdi + 0x20], 1
    mov dword ptr [rdi + 0x70], 11
    mov eax, [rdi + 0x70]
    cmp eax, 11
    jne bad
    mov [rdi + 0x30], ecx
    mov eax, [rdi + 0x34]
    cmp eax, 8
    jb bad
    mov dword ptr [rdi + 0x38], 8
    mov eax, ebx
    mov [rdi + 0x80], eax
    mov dword ptr [rdi + 0x84], 0
    add eax, 0x1000
    mov [rdi + 0x90], eax
    mov dword ptr [rdi + 0x94], 0
    add eax, 0x1000
    mov [rdi + 0xA0], eax
    mov dword ptr [rdi + 0xA4], 0
    mov dword ptr [rdi + 0x44], 1
    mov dword ptr [rdi + 0x70], 15
    ret
bad:
    lea rsi, [rip + text_bad]
    call puts
    jmp off

# one chain that begins with descriptor 0; r8w: chains so far, counted here; waits until it is used, acknowledges the interrupt
submit:
    movzx eax, r8w
    and eax, 7
    mov word ptr [rbx + rax * 2 + 0x1004], 0
    inc r8w
    mov [rbx + 0x1002], r8w
    mov [rdi + 0x50], ecx
submit_wait:
    cmp [rbx + 0x2002], r8w
    jne submit_wait
submit_interrupt:
    mov eax, [rdi + 0x60]
    test eax, 1
    jz submit_interrupt
    mov [rdi + 0x64], eax
    ret

text_mode: .asciz "long mode"
text_cs: .asciz "\\ncs"
text_line: .asciz "\\ncommand line "
text_rsdp: .asciz "\\nrsdp"
text_initrd: .asciz "\\ninitrd"
text_e820: .asciz "\\nmemory"
text_end: .asciz "\\n"
text_bad: .asciz "bad device\\n"
"""

DEVICES_BODY: Final = """
    # the virtio console, queue 1: what was read on it comes back
    mov rdi, 0xD0000000
    mov rbx, {data}
    mov ecx, 1
    call negotiate
    lea rax, [rip + text_hvc]
    mov [rbx], rax
    mov dword ptr [rbx + 8], 15
    mov dword ptr [rbx + 12], 0
    xor r8d, r8d
    call submit

    # the disk: read sector 1, say its first 8 bytes, write it to sector 2, flush
    mov rdi, 0xD0001000
    add rbx, 0x10000
    xor ecx, ecx
    xor r8d, r8d
    call negotiate
    lea rsi, [rip + text_capacity]
    call puts
    mov eax, [rdi + 0x100]
    call puthex
    lea rdx, [rbx + 0x4000]         # header, then status at 16
    lea rsi, [rbx + 0x5000]         # 512 bytes
    mov [rbx], rdx
    mov dword ptr [rbx + 8], 16
    mov dword ptr [rbx + 12], 0x10001
    mov [rbx + 16], rsi
    mov dword ptr [rbx + 24], 512
    mov dword ptr [rbx + 28], 0x20003
    lea rax, [rdx + 16]
    mov [rbx + 32], rax
    mov dword ptr [rbx + 40], 1
    mov dword ptr [rbx + 44], 2
    mov dword ptr [rdx], 0
    mov qword ptr [rdx + 8], 1
    mov byte ptr [rdx + 16], 0xFF
    call submit
    lea rsi, [rip + text_read]
    call puts
    movzx eax, byte ptr [rdx + 16]
    call puthex
    mov rax, [rbx + 0x5000]
    call puthex
    mov dword ptr [rdx], 1
    mov qword ptr [rdx + 8], 2
    mov byte ptr [rdx + 16], 0xFF
    mov dword ptr [rbx + 28], 0x20001
    call submit
    lea rsi, [rip + text_written]
    call puts
    movzx eax, byte ptr [rdx + 16]
    call puthex
    mov dword ptr [rdx], 4
    mov qword ptr [rdx + 8], 0
    mov byte ptr [rdx + 16], 0xFF
    mov dword ptr [rbx + 12], 0x20001
    call submit
    movzx eax, byte ptr [rdx + 16]
    call puthex
    lea rsi, [rip + text_end]
    call puts
    jmp off
text_hvc: .asciz "hello over hvc\\n"
text_capacity: .asciz "sectors"
text_read: .asciz "\\nread"
text_written: .asciz "\\nwritten"
"""

INTERRUPT_BODY: Final = """
    # a flush of the disk, and HLT until its interrupt comes by the I/O APIC: pin 17, vector 0x40
    lea rax, [rip + handler]
    mov rbx, {idt}
    mov word ptr [rbx + 0x400], ax
    mov word ptr [rbx + 0x402], 0x10
    mov word ptr [rbx + 0x404], 0x8E00
    shr rax, 16
    mov [rbx + 0x406], ax
    mov dword ptr [rbx + 0x408], 0
    mov dword ptr [rbx + 0x40C], 0
    lidt [rip + idtr]
    mov rdi, 0xFEE00000
    mov dword ptr [rdi + 0xF0], 0x1FF
    mov rdi, 0xFEC00000
    mov dword ptr [rdi], 0x33
    mov dword ptr [rdi + 0x10], 0
    mov dword ptr [rdi], 0x32
    mov dword ptr [rdi + 0x10], 0x40
    mov rdi, 0xD0001000
    mov rbx, {data}
    xor ecx, ecx
    call negotiate
    lea rdx, [rbx + 0x4000]
    mov [rbx], rdx
    mov dword ptr [rbx + 8], 16
    mov dword ptr [rbx + 12], 0x10001
    lea rax, [rdx + 16]
    mov [rbx + 16], rax
    mov dword ptr [rbx + 24], 1
    mov dword ptr [rbx + 28], 2
    mov dword ptr [rdx], 4
    mov word ptr [rbx + 0x1002], 1
    mov dword ptr [rdi + 0x50], 0
    sti
asleep:
    hlt
    jmp asleep
handler:
    mov rdi, 0xD0001000
    mov eax, [rdi + 0x60]
    mov [rdi + 0x64], eax
    mov ecx, [rdi + 0x60]
    mov rdi, 0xFEE00000
    mov dword ptr [rdi + 0xB0], 0
    lea rsi, [rip + text_interrupt]
    call puts
    call puthex
    mov eax, ecx
    call puthex
    lea rsi, [rip + text_end]
    call puts
    jmp off
idtr: .short 0xFFF
    .quad {idt}
text_interrupt: .asciz "interrupt"
"""

SECOND_CPU_BODY: Final = """
    # INIT and SIPI to the CPU with APIC number 1, which starts in real mode at 0x8000 and says so in memory
    mov rdi, 0x8000
    lea rsi, [rip + trampoline]
    mov ecx, trampoline_end - trampoline
    rep movsb
    mov byte ptr [0x8F00], 0
    mov rdi, 0xFEE00000
    mov dword ptr [rdi + 0xF0], 0x1FF
    mov dword ptr [rdi + 0x310], 0x01000000
    mov dword ptr [rdi + 0x300], 0x4500
    mov dword ptr [rdi + 0x310], 0x01000000
    mov dword ptr [rdi + 0x300], 0x4608
second_wait:
    movzx eax, byte ptr [0x8F00]
    test eax, eax
    jz second_wait
    lea rsi, [rip + text_second]
    call puts
    call puthex
    lea rsi, [rip + text_end]
    call puts
    jmp off
trampoline:                 # 16-bit: mov byte cs:[0x0F00], 0x5A; cli; hlt; jmp to the hlt
    .byte 0x2E, 0xC6, 0x06, 0x00, 0x0F, 0x5A, 0xFA, 0xF4, 0xEB, 0xFD
trampoline_end:
text_second: .asciz "second"
"""

ECHO_BODY: Final = """
    # what comes on the serial port goes back, until a q
echo:
    mov dx, 0x3FD
    in al, dx
    test al, 1
    jz echo
    mov dx, 0x3F8
    in al, dx
    call putc
    cmp al, 0x71
    jne echo
"""

TRIPLE_FAULT_BODY: Final = """
    lidt [rip + nothing]
    ud2
nothing: .quad 0, 0
"""

RESET_BODY: Final = """
    mov dx, 0x604
    mov al, 1
    out dx, al
"""

_LINUX: Final = """
    mov r12d, [rsi + 0x228]
    lea r13, [rsi + 0x2D0]
    movzx r14d, byte ptr [rsi + 0x1E8]
    mov ebp, 20
    mov r15, [rsi + 0x70]
    mov r11d, [rsi + 0x218]
    jmp common
"""

_PVH: Final = """
    mov esi, ebx
    mov r12, [rsi + 24]
    mov r13, [rsi + 40]
    mov r14d, [rsi + 48]
    mov ebp, 24
    mov r15, [rsi + 32]
    xor r11d, r11d
    cmp dword ptr [rsi + 12], 0
    je common
    mov rax, [rsi + 16]
    mov r11, [rax]
    jmp common
"""

_PVH32: Final = """
    mov eax, {tables} + 0x1000
    or eax, 3
    mov [{tables}], eax
    mov eax, {tables} + 0x2000
    or eax, 3
    xor edi, edi
directory:
    mov [{tables} + 0x1000 + edi * 8], eax
    add eax, 0x1000
    inc edi
    cmp edi, 4
    jne directory
    mov eax, 0x83
    xor edi, edi
page:
    mov [{tables} + 0x2000 + edi * 8], eax
    add eax, 0x200000
    inc edi
    cmp edi, 2048
    jne page
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, {tables}
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    lgdt [{gdtr}]
"""
_IDT: Final = LOAD + 0x3_8000
_GDT: Final = LOAD + 0x9000
_TABLES: Final = LOAD + 0x3_0000


def _assemble(text: str, at: int, bits: int) -> bytes:
    import keystone

    mode = keystone.KS_MODE_64 if bits == 64 else keystone.KS_MODE_32
    lines = (line.partition("#")[0] for line in text.splitlines())
    encoded, _count = keystone.Ks(keystone.KS_ARCH_X86, mode).asm("\n".join(lines), at)
    return bytes(encoded)


def _text(start: str, body: str) -> str:
    common = _COMMON.replace("{body}", body.replace("{data}", hex(_DATA)).replace("{idt}", hex(_IDT)))
    return start + common.replace("{stack}", hex(LOAD + 0xF000))


@cache
def bzimage(body: str = DEVICES_BODY) -> bytes:
    """As a bzImage: boot protocol 2.15, one sector of setup, the 64-bit entry 0x200 behind the start."""
    code = bytes(0x200) + _assemble(_text(_LINUX, body), _ENTRY, 64)
    setup = bytearray(1024)
    setup[0x1F1] = 1
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x202] = b"\xeb\x66"
    struct.pack_into("<4sH", setup, 0x202, b"HdrS", 0x20F)
    struct.pack_into("<I", setup, 0x22C, 0x7FFF_FFFF)
    setup[0x234] = 1  # relocatable
    setup[0x236] = 1  # with a 64-bit entry
    struct.pack_into("<I", setup, 0x238, 2047)
    struct.pack_into("<QI", setup, 0x258, LOAD, 0x4_0000)
    return bytes(setup) + code


@cache
def elf(body: str = DEVICES_BODY, *, pvh: bool = True) -> bytes:
    """As an ELF kernel; with ``pvh`` its note, and an entry in 32-bit mode beside the 64-bit one."""
    image = bytearray(0x1_0000)
    linux = _assemble(_text(_LINUX, body), _ENTRY, 64)
    image[0x200 : 0x200 + len(linux)] = linux
    at = LOAD + 0x4000
    code = _assemble(_PVH32.format(tables=hex(_TABLES), gdtr=hex(_GDT + 32)), at, 32)
    after = at + len(code) + 7
    code += b"\xea" + struct.pack(
        "<IH", after, 8
    )  # far jump into 64-bit code, which keystone does not encode
    code += _assemble(_text(_PVH, body), after, 64)
    image[0x4000 : 0x4000 + len(code)] = code
    struct.pack_into("<QQ", image, 0x9000, 0, 0x00AF_9B00_0000_FFFF)
    struct.pack_into("<QQHI", image, 0x9010, 0x00CF_9300_0000_FFFF, 0, 23, _GDT)
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", at)
    count = 2 if pvh else 1
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, _ENTRY, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    offset = 0x1000
    rows = struct.pack("<IIQQQQQQ", 1, 7, offset, LOAD, LOAD, len(image), 0x4_0000, 0x1000)
    if pvh:
        rows += struct.pack("<IIQQQQQQ", 4, 4, 0x800, 0, 0, len(note), len(note), 4)
    return (head + rows).ljust(0x800, b"\0") + note.ljust(0x800, b"\0") + bytes(image)
