"""The bases that classes have from typing, without its import, for which each command would wait.

Named tuples are made quickly, too, since every command starts with dozens of them: typing compiles each
annotation, and collections a constructor for each class; of most of them a command makes no object. Here a
class is finished by collections when it makes its first object. Python 3.8, since nodes have records, too.
"""

from __future__ import annotations

from collections import _tuplegetter, namedtuple  # type: ignore[attr-defined]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
else:
    Protocol = object  # what has one is only ever checked before it runs

    class _Kind(type):
        def __new__(kind, name, bases, body):
            if bases[0].__base__ is tuple:  # and not NamedTuple itself
                fields = tuple(body.get("__annotations__", ()))
                defaults = [body[field] for field in fields if field in body]
                getters = {field: _tuplegetter(number, None) for number, field in enumerate(fields)}
                body = {**body, **getters, "__slots__": (), "_fields": fields, "_defaults": defaults}
            return type.__new__(kind, name, bases, body)

    class NamedTuple(tuple, metaclass=_Kind):
        """What is annotated in a class of this base are its fields, in this order, with their defaults."""

        __slots__ = ()

        def __new__(cls, *values, **named):
            """Of the first object."""
            made = namedtuple(cls.__name__, cls._fields, defaults=cls._defaults)
            for name in ("__new__", "__repr__", "__getnewargs__", "_asdict", "_make", "_replace"):
                if name not in vars(cls):
                    setattr(cls, name, vars(made)[name])
            return cls(*values, **named)

        @classmethod
        def _make(cls, values):
            return cls(*values)
