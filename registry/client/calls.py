"""Methods that are written once for both clients: one runs them at once, the other awaits them."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from registry.client.exchanges import Exchange, Lines

if TYPE_CHECKING:
    from registry.client.clients import AsyncMeloClient, MeloClient

P = ParamSpec("P")
T = TypeVar("T")


class call(Generic[P, T]):
    """Turns a method `-> Exchange[T]` into one `-> T` or, in the asynchronous client, into an awaitable of T."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Exchange[T]]) -> None:
        self.describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "MeloClient", owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: "AsyncMeloClient", owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def begin(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.run(self.describe(client, *args, **kwargs))

        return update_wrapper(begin, self.describe)


class stream(Generic[P, T]):
    """Turns a method `-> Lines[T]` into one `-> Iterator[T]` or, in the asynchronous client, `-> AsyncIterator[T]`."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Lines[T]]) -> None:
        self.describe = describe
        self.__doc__ = describe.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "MeloClient", owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: "AsyncMeloClient", owner: type) -> Callable[P, AsyncIterator[T]]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        def begin(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.read(self.describe(client, *args, **kwargs))

        return update_wrapper(begin, self.describe)
