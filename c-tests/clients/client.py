#!/usr/bin/env python3
"""vmstore from Python, with ctypes alone: open, map, write, commit, restore, compare.

Usage: client.py LIBRARY DIRECTORY. LIBRARY is the path of libvmstore.so, DIRECTORY is an empty directory.
Every check that fails ends the program with a traceback.
"""

import ctypes
import os
import sys
from ctypes import (POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_uint8, c_uint32, c_uint64,
                    c_void_p)

E_HANDLE, E_NOT_FOUND, E_BUSY, E_LOCKED, E_CANCELLED = -5002, -5003, -5006, -5005, -5017
ABI_VERSION = 0
SIZE = 1 << 20

LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
ProgressCallback = ctypes.CFUNCTYPE(c_int, c_uint64, c_uint64, c_void_p)


class Sized(ctypes.Structure):
    """A struct of vmstore.h: ctypes zeroes it, and struct_size comes first."""

    def __init__(self, **fields):
        super().__init__(struct_size=ctypes.sizeof(self), **fields)


class OpenOptions(Sized):
    _fields_ = [("struct_size", c_size_t), ("flags", c_uint32), ("reserved", c_uint32),
                ("log", LogCallback), ("user_data", c_void_p), ("arena_limit", c_uint64)]


class CommitOptions(Sized):
    _fields_ = [("struct_size", c_size_t), ("label", c_char_p),
                ("user_data", c_char_p), ("user_data_length", c_size_t)]


class PersistOptions(Sized):
    _fields_ = [("struct_size", c_size_t), ("progress", ProgressCallback), ("user_data", c_void_p)]


class VerifyOptions(Sized):
    _fields_ = [("struct_size", c_size_t), ("flags", c_uint32), ("reserved", c_uint32),
                ("commit", c_uint64), ("progress", ProgressCallback), ("user_data", c_void_p)]


class CommitInfo(Sized):
    _fields_ = [("struct_size", c_size_t), ("commit", c_uint64), ("parent", c_uint64),
                ("time", c_uint64), ("unique_id", c_uint8 * 16), ("label", c_char * 256),
                ("user_data_length", c_uint64), ("modules", c_uint32), ("persisted", c_uint32)]


class ModuleInfo(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("module_id", c_char_p), ("size", c_uint64),
                ("module_commit", c_uint64), ("digest", c_uint8 * 16), ("address", c_void_p),
                ("mode", c_uint32), ("tracker", c_uint32), ("tracker_reason", c_char_p),
                ("unverified_bytes", c_uint64)]


ModuleCallback = ctypes.CFUNCTYPE(c_int, POINTER(ModuleInfo), c_void_p)


class StoreError(Exception):
    def __init__(self, status, text):
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


class Library:
    """The functions that this program uses. Functions that return a status raise StoreError."""

    HANDLE, OUT = c_void_p, c_void_p  # handles are numbers in the type of a pointer
    FALLIBLE = {
        "store_open": [c_char_p, POINTER(OpenOptions), OUT],
        "store_close": [HANDLE],
        "store_map_module": [HANDLE, c_char_p, c_uint64, c_void_p, OUT],
        "store_unmap_module": [HANDLE],
        "store_commit": [HANDLE, POINTER(CommitOptions), OUT],
        "store_capture": [HANDLE, POINTER(CommitOptions), OUT],
        "store_capture_commit": [HANDLE, OUT],
        "store_persist": [HANDLE, POINTER(PersistOptions)],
        "store_restore": [HANDLE, c_uint64, c_void_p],
        "store_verify": [HANDLE, POINTER(VerifyOptions)],
        "store_head": [HANDLE, OUT],
        "store_list_commits": [HANDLE, POINTER(c_uint64), c_size_t, OUT],
        "store_commit_info": [HANDLE, c_uint64, POINTER(CommitInfo)],
        "store_commit_user_data": [HANDLE, c_uint64, c_void_p, c_size_t, OUT],
        "store_list_modules": [HANDLE, c_uint64, ModuleCallback, c_void_p],
    }

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        for name, arguments in self.FALLIBLE.items():
            function = getattr(self.c, name)
            function.argtypes, function.restype = arguments, c_int
            setattr(self, name[len("store_"):], self.checked(function))
        for name, arguments, result in [
                ("store_module_address", [c_void_p], c_void_p),
                ("store_module_size", [c_void_p], c_uint64),
                ("store_last_error", [c_char_p, c_size_t], c_size_t),
                ("store_version", [], c_char_p),
                ("store_abi_version", [], c_uint32)]:
            function = getattr(self.c, name)
            function.argtypes, function.restype = arguments, result

    def checked(self, function):
        def call(*arguments):
            status = function(*arguments)
            if status != 0:
                text = ctypes.create_string_buffer(1024)
                self.c.store_last_error(text, len(text))
                raise StoreError(status, text.value.decode())
        return call


def refused(status, call, *arguments):
    """The call must fail with this status and a text. Returns the text."""
    try:
        call(*arguments)
    except StoreError as error:
        assert error.status == status and error.text, error
        return error.text
    raise AssertionError(f"{call} succeeded")


def main(path, directory):
    library = Library(path)
    assert library.c.store_abi_version() == ABI_VERSION
    print("vmstore", library.c.store_version().decode())

    lines = []
    log = LogCallback(lambda level, message, user_data: lines.append((level, message.decode())))
    options = OpenOptions(log=log, arena_limit=64 << 20)
    name = os.path.join(directory, "python.store").encode()
    store, ram = c_void_p(), c_void_p()
    library.open(name, byref(options), byref(store))
    refused(E_LOCKED, library.open, name, None, byref(c_void_p()))
    library.map_module(store, b"ram", SIZE, None, byref(ram))
    assert library.c.store_module_size(ram) == SIZE
    memory = (c_char * SIZE).from_address(library.c.store_module_address(ram))
    assert memory.raw == bytes(SIZE)

    first, second, third, head = c_uint64(), c_uint64(), c_uint64(), c_uint64()
    pattern = bytes(range(256)) * 64
    memory[4096:4096 + len(pattern)] = pattern
    label = CommitOptions(label=b"first", user_data=b"cpu\0state", user_data_length=9)
    library.commit(store, byref(label), byref(first))
    at_first = memory.raw
    memory[SIZE - 1:SIZE] = b"!"
    memory[4096:8192] = bytes(4096)
    library.commit(store, None, byref(second))
    at_second = memory.raw
    assert at_first != at_second and second.value == first.value + 1

    capture = c_void_p()
    memory[0:5] = b"third"
    library.capture(store, None, byref(capture))
    refused(E_BUSY, library.restore, store, first, None)
    memory[0:5] = b"later"
    library.capture_commit(capture, byref(third))

    calls = []
    def progress(done, total, user_data):
        calls.append((done, total))
        return 0
    callback = ProgressCallback(progress)
    library.persist(store, byref(PersistOptions(progress=callback)))
    assert all(done <= total for done, total in calls), calls
    stop = VerifyOptions(progress=ProgressCallback(lambda done, total, user_data: 1))
    refused(E_CANCELLED, library.verify, store, byref(stop))
    library.verify(store, None)

    # Any commit can be restored, in any order. The memory keeps its address.
    at_third = b"third" + at_second[5:]
    for number, expected in [
            (first, at_first), (third, at_third), (second, at_second), (first, at_first)]:
        library.restore(store, number, None)
        library.head(store, byref(head))
        assert memory.raw == expected and head.value == number.value
    assert "999" in refused(E_NOT_FOUND, library.restore, store, 999, None)

    count, list_of = c_size_t(), (c_uint64 * 8)()
    library.list_commits(store, list_of, 8, byref(count))
    assert list_of[:count.value] == [first.value, second.value, third.value]
    info = CommitInfo()
    library.commit_info(store, first, byref(info))
    assert (info.label, info.parent, info.modules, info.user_data_length) == (b"first", 0, 1, 9)
    data = ctypes.create_string_buffer(9)
    library.commit_user_data(store, first, data, 9, byref(count))
    assert data.raw == b"cpu\0state" and count.value == 9

    modules = []
    def module(found, user_data):
        modules.append((found.contents.module_id, found.contents.size, found.contents.address))
        return 0
    library.list_modules(store, 0, ModuleCallback(module), None)
    assert modules == [(b"ram", SIZE, ctypes.addressof(memory))], modules

    library.close(store)
    refused(E_HANDLE, library.head, store, byref(head))

    # After a close and an open the modules have the bytes of the head.
    library.open(name, None, byref(store))
    library.map_module(store, b"ram", 0, None, byref(ram))
    again = (c_char * SIZE).from_address(library.c.store_module_address(ram))
    assert again.raw == at_first
    library.unmap_module(ram)
    library.close(store)
    print(f"python: all held, {len(lines)} log lines")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
