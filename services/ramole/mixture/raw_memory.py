"""What machine code needs that works on raw memory: arrays at an address, and a word to the caches.

numba's cache on disk does not see changes of this file: touch the kernels that import it as well.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

INTS = types.CPointer(types.int64)
FLOATS = types.CPointer(types.float32)

LINE, HEAD, PAGE = 16, 64, 1024  # floats of a cache line, of what is asked for in a page, and of a page


@intrinsic
def floats(_typing: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return FLOATS(address), codegen


@intrinsic
def ints(_typing: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return INTS(address), codegen


@intrinsic
def _prefetch_line(_typing: Any, table: Any, at: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        int32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, int32, int32, int32])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(hint, [address, int32(0), int32(2), int32(1)])  # to read, into the second cache, data
        return context.get_dummy_value()

    return types.void(table, at), codegen


@njit
def prefetch(table: Any, at: Any, count: Any) -> None:
    """Asks for the head of each page of table[at : at + count] ahead of its use.

    At decode the way from memory is most of the time. The processor fetches ahead by itself once it sees a stream, but
    only inside a page; asking for every line would fill its queue and hold up the arithmetic.
    """
    for page in range(at, at + count, PAGE):
        for i in range(page, page + HEAD, LINE):
            _prefetch_line(table, i)
