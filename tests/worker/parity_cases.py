"""The handler of test_parity: values to return and exceptions to raise, by name. Runs under both runtimes."""

# mypy: ignore-errors
# ruff: noqa: F601, UP042, SIM115

import collections
import dataclasses
import datetime
import decimal
import enum
import math
import os
import uuid

D = decimal.Decimal
Point = collections.namedtuple("Point", "x y")


class Color(enum.IntEnum):
    RED = 1


class Kind(str, enum.Enum):
    A = "a"


class Plain(enum.Enum):
    A = "a"


class Str(str):
    def __str__(self):
        return "lie"


class Int(int):
    def __repr__(self):
        return "lie"

    __str__ = __repr__


class Float(float):
    def __repr__(self):
        return "lie"

    __str__ = __repr__


class AsDict:
    def _asdict(self):
        return {"a": D("1.0")}


class BadAsDict:
    def _asdict(self):
        return [1]


class BadStr(Exception):
    def __str__(self):
        return ""


class List(list): ...


class Boom:
    def _asdict(self):
        raise KeyError("boom")


@dataclasses.dataclass
class Data:
    a: int = 1


def circular():
    a = []
    a.append({"a": a})
    return a


def deep(n):
    a = []
    for _ in range(n):
        a = [a]
    return a


def shared():
    a = [1]
    return [a, a, {"a": a}]


VALUES = {
    "none": None,
    "true": True,
    "int": 1,
    "big": 10**400,
    "negative": -5,
    "float": 1.5,
    "tiny": 5e-324,
    "huge": 1.7e308,
    "zero": -0.0,
    "integral": 1e16,
    "nan": math.nan,
    "inf": [math.inf, -math.inf],
    "text": "plain",
    "umlaut": "ü€😀",
    "escapes": '"\\/\b\f\n\r\t\x00\x1f\x7f\x80',
    "separators": "\u2028\u2029<>&'",
    "empty": ["", [], {}, ()],
    "nested": {"a": [1, {"b": (2, 3)}]},
    "tuple": (1, "a"),
    "decimal": D("1.10"),
    "decimals": [D("1E+3"), D("-0"), D("0.1000"), D("1e-30"), {"k": D(7)}],
    "decimal nan": [D("NaN"), D("sNaN"), D("-NaN")],
    "decimal inf": [D("Infinity"), D("-Infinity")],
    "namedtuple": Point(1, [Point(D(2), 3)]),
    "namedtuple in dict": {"p": Point(1, 2)},
    "asdict": [AsDict()],
    "bad asdict": BadAsDict(),
    "boom asdict": Boom(),
    "class with asdict": Point,
    "bytes": b"raw \xff",
    "bytes inside": {"a": b"text \xc3\xbc"},
    "bad bytes inside": [b"\xff"],
    "bytes key": {b"k": 1},
    "bytearray": bytearray(b"x"),
    "int enum": [Color.RED, {Color.RED: 1}],
    "str enum": [Kind.A, {Kind.A: 1}],
    "enum": Plain.A,
    "str subclass": [Str("x"), {Str("k"): Str("v")}],
    "int subclass": [Int(3), {Int(3): 1}],
    "float subclass": [Float(2.5), {Float(2.5): 1}],
    "list subclass": List([1, Point(1, 2)]),
    "ordered": collections.OrderedDict(b=1, a=2),
    "defaultdict": collections.defaultdict(list, a=[D(1)]),
    "counter": collections.Counter("aab"),
    "userdict": collections.UserDict(a=1),
    "keys": {1: 1, 1.5: 2, True: 3, None: 4, "s": 5},
    "nan key": {math.nan: 1, math.inf: 2},
    "tuple key": {(1, 2): 3},
    "decimal key": {D(1): 1},
    "decimal value and tuple key": {(1,): D(1)},
    "set": {1},
    "frozenset": frozenset(),
    "object": object(),
    "datetime": datetime.datetime(2020, 1, 1),
    "uuid": uuid.UUID(int=1),
    "complex": 1j,
    "range": range(3),
    "generator": (i for i in ()),
    "dataclass": Data(),
    "exception": ValueError("x"),
    "function": len,
    "class": int,
    "circular": circular(),
    "shared": shared(),
    "deep": deep(200),
    "mixed": [1, "a", None, 2.5, {"x": [D("1.5"), b"b", Point(None, True)]}],
    "marker": ["deadbeef", "0x", D(1)],
    "ellipsis": ...,
    "memoryview": memoryview(b"x"),
    "mappingproxy": type.__dict__,
}
try:
    import numpy

    VALUES.update(
        {
            "numpy float": numpy.float64(1.5),
            "numpy int": numpy.int64(1),
            "numpy array": numpy.arange(2),
            "numpy bool": numpy.bool_(True),
            "numpy str": numpy.str_("s"),
            "float32": numpy.float32(1),
        }
    )
except ImportError:
    pass


def echo(event):
    return event


async def coroutine():
    return 1


def raiser(error):
    def f():
        raise error

    return f


def inner():
    raise KeyError("deep")


def chained():
    try:
        inner()
    except KeyError as e:
        raise RuntimeError("outer") from e


def recursive(n=0):
    return recursive(n + 1)


def multi():
    eval("1 +\n  nope")


def generator_error():
    return [1 / i for i in (1, 0)]


RAISES = {
    "value": raiser(ValueError("bad")),
    "empty": raiser(ValueError()),
    "key": inner,
    "chained": chained,
    "recursive": recursive,
    "multi": multi,
    "umlaut": raiser(Exception("ü\n zwei")),
    "os": lambda: open("/not/there"),
    "comprehension": generator_error,
    "assert": raiser(AssertionError),
    "custom": raiser(BadStr("x")),
    "many": raiser(Exception(1, "b")),
    "group": lambda: (_ for _ in ()).throw(ValueError("thrown")),
    "stop": raiser(StopIteration(3)),
    "timeout": raiser(TimeoutError("t")),
    "unicode": lambda: "\ud800".encode(),
}


def handler(event, context):
    kind, name = event["kind"], event.get("name")
    if kind == "value":
        return VALUES[name]
    if kind == "raise":
        return RAISES[name]()
    if kind == "coroutine":
        return coroutine()
    if kind == "names":
        return [list(VALUES), list(RAISES)]
    if kind == "env":
        return os.environ.get("_X_AMZN_TRACE_ID")
    return event
