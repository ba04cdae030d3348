"""What stands in the place of a refused value, so that checks of the others go on and all mistakes are told at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MARK = "\0faulty\0"  # in a message: it is about a value that was refused already


class Faulty:
    """Whatever is asked of it does not hold, and whatever is made from it is faulty as well."""

    def _itself(self, *_: Any, **__: Any) -> Faulty:
        return self

    __call__ = __getattr__ = __getitem__ = __round__ = __neg__ = __abs__ = _itself
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __pow__ = __rpow__ = _itself
    __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _itself
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _itself  # type: ignore[assignment]
    __hash__ = object.__hash__

    def __divmod__(self, other: Any) -> tuple[Faulty, Faulty]:
        return self, self

    __rdivmod__ = __divmod__

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    __index__ = __len__

    def __contains__(self, item: Any) -> bool:
        return True

    def __repr__(self) -> str:
        return MARK

    def __format__(self, spec: str) -> str:
        return MARK


FAULTY = Faulty()
