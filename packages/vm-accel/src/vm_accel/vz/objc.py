"""Objective-C from Python: classes, messages, blocks, a serial queue, and classes made at run time.

A message is sent by ``objc_msgSend`` cast to the method's own C type, never as a variadic function: Apple silicon passes variadic
arguments elsewhere. The type is derived from the encoding in :mod:`vm_accel.vz.table`, and before a message goes to a class for
the first time, the runtime is asked whether the class has the method and whether its encoding passes values the same way. So a
macOS that lacks something gives an error here, where an unknown selector would end the process.

Ownership follows Cocoa's rule: what ``alloc`` gave is owned (:class:`Scope` gives it back), what any other message gave is the
pool's. Nothing is released by Python's garbage collector, which runs on any thread.

No exception of Objective-C may be raised below a call from here, since none can cross it: callers give no nil and no value that the
frameworks answer with an exception.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar

import cffi

from vm_accel.closing import Closing
from vm_accel.errors import AcceleratorUnavailable, HypervisorError
from vm_accel.vz import table
from vm_core.errors import UsageError

__all__ = ["LIBRARIES", "Failure", "Queue", "Runtime", "Scope", "runtime"]

T = TypeVar("T")

LIBRARIES: Final = (
    "/usr/lib/libobjc.A.dylib",
    "/usr/lib/libSystem.B.dylib",
    "/System/Library/Frameworks/Foundation.framework/Foundation",
    "/System/Library/Frameworks/Virtualization.framework/Virtualization",
)
"""No such files on a recent macOS: the loader finds them in its cache."""

_CDEF: Final = """
typedef struct { unsigned long reserved, size; const char *signature; } vm_block_descriptor;
typedef struct {
    void *isa; int32_t flags, reserved; void *invoke; vm_block_descriptor *descriptor; intptr_t token;
} vm_block;

void *objc_getClass(const char *name);
void *objc_getProtocol(const char *name);
void *sel_registerName(const char *name);
void *object_getClass(void *object);
const char *class_getName(void *class_);
void *class_getSuperclass(void *class_);
void *class_getInstanceMethod(void *class_, void *selector);
const char *method_getTypeEncoding(void *method);
bool class_respondsToSelector(void *class_, void *selector);
void *objc_allocateClassPair(void *superclass, const char *name, size_t extra);
bool class_addMethod(void *class_, void *selector, void *implementation, const char *types);
bool class_addProtocol(void *class_, void *protocol);
void objc_registerClassPair(void *class_);
void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *pool);
void *objc_retain(void *object);
void objc_release(void *object);

void *dispatch_queue_create(const char *label, void *attributes);
void dispatch_sync_f(void *queue, void *context, void *work);
void dispatch_retain(void *object);
void dispatch_release(void *object);
void objc_msgSend(void);

extern void *_NSConcreteGlobalBlock[32];
"""

_TYPES: Final = {
    "@": "void *",
    "#": "void *",
    ":": "void *",
    "@?": "void *",
    "^v": "const void *",
    "^@": "void **",
    "*": "const char *",
    "B": "_Bool",
    "i": "int32_t",
    "I": "uint32_t",
    "q": "int64_t",
    "Q": "uint64_t",
    "v": "void",
}

_CTYPES: Final[dict[str, Any]] = {
    **dict.fromkeys(("@", "#", ":", "@?", "^v", "^@", "*"), ctypes.c_void_p),
    "B": ctypes.c_bool,
    "i": ctypes.c_int32,
    "I": ctypes.c_uint32,
    "q": ctypes.c_int64,
    "Q": ctypes.c_uint64,
    "v": None,
}

BLOCK_IS_GLOBAL: Final = 1 << 28
"""Copying the block gives the block itself, and releasing it does nothing."""
BLOCK_HAS_SIGNATURE: Final = 1 << 30

_SIGNATURES: Final = {1: b"v16@?0@8", 2: b"v24@?0@8@16"}
"""What a block with so many object arguments is, in the runtime's notation."""


class Failure(NamedTuple):
    """An NSError as plain data."""

    domain: str
    code: int
    text: str
    reason: str = ""


class Runtime:
    """The loaded libraries. One for each set of them, and as long as the process lives: its callbacks may be called any time."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        ffi = cffi.FFI()
        ffi.cdef(_CDEF)
        self.ffi: Any = ffi
        self._libraries: list[Any] = [ffi.dlopen(path) for path in paths]
        self._types: dict[str, Any] = {}
        self._checked: dict[tuple[int, str], Any] = {}
        self._selectors: dict[str, Any] = {}
        # SAFETY: addresses only; each message casts the first to the type of the method that it is for.
        self._send = self._address("objc_msgSend")
        self.global_block = ffi.cast("void *", self._address("_NSConcreteGlobalBlock"))
        self.blocks = _Blocks(self)
        self._work: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._guard = threading.Lock()
        # SAFETY: kept as long as the runtime, so that no closure is freed while a queue is about to call it.
        self.work, self._kept = self.closure("v^v", self._perform)
        self._classes: dict[str, tuple[Any, list[Any]]] = {}
        self.here = threading.local()
        """``here.queue``: the queue whose work this thread is doing, if any."""

    # -- symbols ---------------------------------------------------------------------------------------------------------

    def _address(self, name: str) -> Any:
        for library in self._libraries:
            try:
                return self.ffi.addressof(library, name)
            except AttributeError:
                continue
        raise OSError(f"none of the loaded libraries has {name}")

    def __getattr__(self, name: str) -> Any:
        """A C function of the runtime or of the queues."""
        if name.startswith("_"):
            raise AttributeError(name)
        found = self._address(name)
        setattr(self, name, found)
        return found

    # -- messages --------------------------------------------------------------------------------------------------------

    def selector(self, name: str) -> Any:
        """The runtime's unique pointer for a selector."""
        found = self._selectors.get(name)
        if found is None:
            found = self._selectors[name] = self.sel_registerName(name.encode())
        return found

    def has(self, name: str, selector: str = "", *, static: bool = False) -> bool:
        """Whether this macOS has the class and, if named, its method."""
        owner = self.objc_getClass(name.encode())
        if not owner:
            return False
        if static:
            owner = self.object_getClass(owner)
        return not selector or bool(self.class_respondsToSelector(owner, self.selector(selector)))

    def cls(self, name: str) -> Any:
        """A class. AcceleratorUnavailable if this macOS has none of that name."""
        found = self.objc_getClass(name.encode())
        if not found:
            raise AcceleratorUnavailable(f"{name} needs macOS {table.classes()[name]}{_here()}")
        return found

    def send(self, receiver: Any, selector: str, *arguments: Any) -> Any:
        """Send a message of the table; never to nil. Objects are ``void *``, BOOL is bool, None is nil."""
        if not receiver:
            raise HypervisorError(f"{selector} would go to nil", call=selector)
        call = self.function(self.object_getClass(receiver), selector)
        null = self.ffi.NULL
        # SAFETY: the receiver is an object that its caller owns or that a pool keeps, its class has the method, and the method's
        # own encoding passes values as this function does.
        return call(
            receiver, self._selectors[selector], *(null if each is None else each for each in arguments)
        )

    def function(self, owner: Any, selector: str) -> Any:
        """``objc_msgSend`` as the C function that sends this selector to instances of ``owner``, which has been checked."""
        key = (int(self.ffi.cast("uintptr_t", owner)), selector)
        call = self._checked.get(key)
        if call is None:
            call = self._checked[key] = self._check(owner, selector)
        return call

    def _check(self, owner: Any, selector: str) -> Any:
        encoding = table.signatures()[selector]
        wanted = self.selector(selector)
        if not self.class_respondsToSelector(owner, wanted):
            name = self.ffi.string(self.class_getName(owner)).decode()
            since = [
                row.since + (f" on {row.arch}" if row.arch else "")
                for row in table.methods()
                if row.selector == selector
            ]
            raise AcceleratorUnavailable(f"{name} has no {selector}: it needs macOS {since[0]}{_here()}")
        method = self.class_getInstanceMethod(owner, wanted)
        found = self.ffi.string(self.method_getTypeEncoding(method)).decode() if method else ""
        try:
            agrees = not found or table.shape(found) == table.shape(encoding)
        except ValueError:
            agrees = True  # Swift gives encodings that we cannot read; the selector's documentation is what remains.
        if not agrees:
            raise HypervisorError(
                f"{selector} is {found} here, and {encoding} where vm was checked",
                call=selector,
                hint="report this macOS",
            )
        return self._typed(encoding)

    def _typed(self, encoding: str) -> Any:
        found = self._types.get(encoding)
        if found is None:
            result, *arguments = (_TYPES[kind] for kind in table.split(encoding))
            found = self._types[encoding] = self.ffi.cast(f"{result}(*)({', '.join(arguments)})", self._send)
        return found

    # -- values ----------------------------------------------------------------------------------------------------------

    def string(self, text: str) -> Any:
        """An NSString of the pool's. UsageError for what it cannot hold: it would be nil, or end at the NUL."""
        if "\0" in text:
            raise UsageError(f"{text!r} has a NUL in it")
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{text!r} is not UTF-8") from None
        return self.send(self.cls("NSString"), "stringWithUTF8String:", encoded)

    def text(self, string: Any) -> str:
        """What an NSString says; empty for nil."""
        if not string:
            return ""
        raw: bytes = self.ffi.string(self.send(string, "UTF8String"))
        return raw.decode("utf-8", "replace")

    def url(self, path: os.PathLike[str] | str, *, directory: bool = False) -> Any:
        """A file URL of the pool's; the path is made absolute by the caller's directory."""
        return self.send(
            self.cls("NSURL"), "fileURLWithPath:isDirectory:", self.string(os.path.abspath(path)), directory
        )

    def array(self, objects: list[Any]) -> Any:
        """An NSArray of the pool's, which retains them."""
        items = self.ffi.new("void *[]", objects or 1)
        return self.send(self.cls("NSArray"), "arrayWithObjects:count:", items, len(objects))

    def items(self, array: Any) -> list[Any]:
        """What is in an NSArray, without owning it."""
        return [self.send(array, "objectAtIndex:", index) for index in range(self.send(array, "count"))]

    def data(self, content: bytes) -> Any:
        """An NSData of the pool's."""
        return self.send(
            self.cls("NSData"), "dataWithBytes:length:", self.ffi.from_buffer(content), len(content)
        )

    def content(self, data: Any) -> bytes:
        """The bytes of an NSData."""
        size = self.send(data, "length")
        return bytes(self.ffi.buffer(self.send(data, "bytes"), size)) if size else b""

    def failure(self, error: Any) -> Failure:
        """An NSError as plain data."""
        if not error:
            return Failure("", 0, "no reason was given")
        return Failure(
            self.text(self.send(error, "domain")),
            self.send(error, "code"),
            self.text(self.send(error, "localizedDescription")),
            self.text(self.send(error, "localizedFailureReason")),
        )

    def checked(self, receiver: Any, selector: str, *arguments: Any) -> tuple[Any, Failure | None]:
        """Send a message whose last argument is ``NSError **``. The result alone says whether it failed."""
        error = self.ffi.new("void **")
        result = self.send(receiver, selector, *arguments, error)
        return result, None if result else self.failure(error[0])

    @contextmanager
    def scope(self) -> Iterator[Scope]:
        """A pool, and what was made inside it."""
        scope = Scope(self)
        pool = self.objc_autoreleasePoolPush()
        try:
            yield scope
        finally:
            scope.close()
            self.objc_autoreleasePoolPop(pool)

    # -- the queue's side ------------------------------------------------------------------------------------------------

    def register_work(self, work: Callable[[], None]) -> int:
        """A token that stands for ``work`` in the context pointer of one call."""
        with self._guard:
            self._next += 1
            self._work[self._next] = work
            return self._next

    def _perform(self, context: Any) -> None:
        self._work.pop(int(self.ffi.cast("intptr_t", context)))()

    def closure(self, encoding: str, function: Callable[..., Any]) -> tuple[Any, Any]:
        """A C function that calls ``function``, which gets pointers as ``void *`` and raises nothing: its address, and what
        must be kept as long as it can be called.

        By ctypes, not by cffi: on Apple silicon, cffi's callbacks need writable code memory, which many a Python may not have;
        ctypes takes its closures from the system's libffi, which needs none.
        """
        cast = self.ffi.cast
        result, *arguments = table.split(encoding)
        pointers = [_CTYPES[kind] is ctypes.c_void_p for kind in arguments]

        def called(*values: Any) -> Any:
            given = (
                cast("void *", value or 0) if pointer else value
                for value, pointer in zip(values, pointers, strict=True)
            )
            return function(*given)

        made = ctypes.CFUNCTYPE(_CTYPES[result], *(_CTYPES[kind] for kind in arguments))(called)
        return cast("void *", ctypes.cast(made, ctypes.c_void_p).value), made

    def make_class(
        self, name: str, methods: dict[str, tuple[str, Callable[..., Any]]], protocol: str = ""
    ) -> Any:
        """A subclass of NSObject. ``methods``: encoding and function by selector; a function gets the receiver's address and its
        arguments, and raises nothing. Made once for each name."""
        with self._guard:
            known = self._classes.get(name)
            if known is None:
                known = self._classes[name] = self._make_class(name, methods, protocol)
        return known[0]

    def _make_class(
        self, name: str, methods: dict[str, tuple[str, Callable[..., Any]]], protocol: str
    ) -> tuple[Any, list[Any]]:
        made = self.ffi.NULL
        for attempt in range(100):  # another copy of this module in the process may have taken the name
            unique = f"{name}{attempt or ''}"
            made = self.objc_allocateClassPair(self.cls("NSObject"), unique.encode(), 0)
            if made:
                break
        if not made:
            raise HypervisorError(f"no class {name} can be made", call="objc_allocateClassPair")
        kept = []
        for selector, (encoding, function) in methods.items():
            # SAFETY: kept as long as the runtime; the C type is the method's.
            address, implementation = self.closure(encoding, _without_selector(self.ffi, function))
            kept.append(implementation)
            native = (
                encoding
                if platform.machine() != "x86_64" or sys.platform != "darwin"
                else encoding.replace("B", "c")
            )
            if not self.class_addMethod(made, self.selector(selector), address, native.encode()):
                raise HypervisorError(f"{name} takes no {selector}", call="class_addMethod")
        declared = self.objc_getProtocol(protocol.encode()) if protocol else None
        # The runtime knows a protocol only if some loaded code refers to it; nothing depends on it.
        if declared:
            self.class_addProtocol(made, declared)
        self.objc_registerClassPair(made)
        return made, kept


def _without_selector(ffi: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    def implementation(receiver: Any, _selector: Any, *arguments: Any) -> Any:
        return function(int(ffi.cast("uintptr_t", receiver)), *arguments)

    return implementation


def _here() -> str:
    version = platform.mac_ver()[0]
    return f" (this is {version})" if version else ""


class Scope:
    """Objects that are owned until the scope ends, when they are released in the opposite order."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._owned = runtime, list[Any]()

    def own(self, thing: Any) -> Any:
        """Take over an object that is owned already."""
        self._owned.append(thing)
        return thing

    def new(self, name: Any, selector: str = "init", *arguments: Any) -> Any:
        """A new object of a class or of its name. The initialiser may give another object than ``alloc`` did; nil raises
        HypervisorError."""
        made = self.maybe(name, selector, *arguments)
        if not made:
            raise HypervisorError(f"{name} could not be made", call=selector)
        return made

    def maybe(self, name: Any, selector: str, *arguments: Any) -> Any:
        """A new object, or nil if the initialiser gave that."""
        run = self._runtime
        owner = run.cls(name) if isinstance(name, str) else name
        run.function(owner, selector)  # raises before there is an object that was never initialised
        allocated = run.send(owner, "alloc")
        try:
            made = run.send(allocated, selector, *arguments)
        except (
            BaseException
        ):  # a wrong argument, before the call: the initialiser has not taken the object over
            run.objc_release(allocated)
            raise
        return self.own(made) if made else made

    def try_new(self, name: str, selector: str, *arguments: Any) -> tuple[Any, Failure | None]:
        """A new object by an initialiser that ends in ``error:``, or why there is none."""
        error = self._runtime.ffi.new("void **")
        made = self.maybe(name, selector, *arguments, error)
        return made, None if made else self._runtime.failure(error[0])

    def keep(self, thing: Any) -> Any:
        """An object that the scope's end leaves owned: the caller releases it."""
        self._owned.remove(thing)
        return thing

    def close(self) -> None:
        """Release all."""
        while self._owned:
            self._runtime.objc_release(self._owned.pop())


class _Blocks:
    """Completion handlers: global blocks that are used again, never freed, since a framework reads one after it has called it.

    A block is taken for one call of its function. If a framework drops it uncalled, it stays taken: that is the whole leak.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._free: dict[int, list[Any]] = {1: [], 2: []}
        self._all: list[Any] = []
        self._taken: dict[int, tuple[Callable[..., None], Any]] = {}
        self._guard = threading.Lock()
        # SAFETY: kept as long as the runtime. The first argument of a block's function is the block.
        self._invoke = {count: runtime.closure("v@?" + "@" * count, self._called) for count in _SIGNATURES}
        self._descriptors = {count: self._descriptor(count) for count in self._invoke}

    def _descriptor(self, count: int) -> tuple[Any, Any]:
        ffi = self._runtime.ffi
        signature = ffi.new("char[]", _SIGNATURES[count])
        return ffi.new("vm_block_descriptor *", (0, ffi.sizeof("vm_block"), signature)), signature

    def take(self, function: Callable[..., None], arguments: int = 1) -> Any:
        """A block that calls ``function`` once, with so many objects, on whatever thread; what it raises is lost."""
        ffi = self._runtime.ffi
        with self._guard:
            free = self._free[arguments]
            if free:
                block = free.pop()
            else:
                block = ffi.new("vm_block *")
                block.isa, block.flags = self._runtime.global_block, BLOCK_IS_GLOBAL | BLOCK_HAS_SIGNATURE
                block.invoke = self._invoke[arguments][0]
                block.descriptor = self._descriptors[arguments][0]
                block.token = len(self._all) * 2 + arguments - 1
                self._all.append(block)
            self._taken[block.token] = (function, block)
        return ffi.cast("void *", block)

    def _called(self, pointer: Any, *arguments: Any) -> None:
        block = self._runtime.ffi.cast("vm_block *", pointer)
        with self._guard:
            function, kept = self._taken.pop(block.token)
            self._free[len(arguments)].append(kept)
        function(*arguments)


class Queue(Closing):
    """A serial queue. Everything about one machine happens on it, and one thing at a time."""

    def __init__(self, runtime: Runtime, label: str) -> None:
        self._runtime, self._guard = runtime, threading.Lock()
        self.pointer = runtime.dispatch_queue_create(label.encode(), runtime.ffi.NULL)
        if not self.pointer:
            raise HypervisorError("no queue can be made", call="dispatch_queue_create")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Around what the queue itself calls, so that ``call`` knows that it is there already."""
        here = self._runtime.here
        before, here.queue = getattr(here, "queue", None), self
        try:
            yield
        finally:
            here.queue = before

    @property
    def inside(self) -> bool:
        """Whether this thread is doing the queue's work."""
        return getattr(self._runtime.here, "queue", None) is self

    def call(self, function: Callable[[Scope], T]) -> T:
        """Do ``function`` on the queue, inside a pool, and return what it returned. From the queue's own work: at once."""
        run, outcome = self._runtime, list[T]()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                with self.entered(), self._runtime.scope() as scope:
                    outcome.append(function(scope))
            except BaseException as error:  # noqa: BLE001 - raised where it was asked for, not on the queue
                errors.append(error)

        with self._guard:  # another thread may close it
            pointer = self.pointer
            if not pointer:
                raise HypervisorError("the machine is closed", call="dispatch_sync")
            run.dispatch_retain(pointer)
        try:
            if self.inside:
                work()
            else:
                # SAFETY: the queue is retained, and the callback lives as long as the runtime.
                run.dispatch_sync_f(pointer, run.ffi.cast("void *", run.register_work(work)), run.work)
        finally:
            run.dispatch_release(pointer)
        if errors:
            raise errors[0]
        return outcome[0]

    def close(self) -> None:
        """Give the queue back. May be called twice."""
        with self._guard:
            pointer, self.pointer = self.pointer, None
        if pointer:
            self._runtime.dispatch_release(pointer)


_LOADING: Final = threading.Lock()


@cache
def _loaded(paths: tuple[str, ...]) -> Runtime:
    return Runtime(paths)


def runtime() -> Runtime:
    """The runtime with Virtualization loaded, or what ``VM_VZ_LIBRARY`` names in its place. OSError if it is not there."""
    override = os.environ.get("VM_VZ_LIBRARY")
    with _LOADING:
        return _loaded((override,) if override else LIBRARIES)
