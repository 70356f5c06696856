"""How much work something is, measured so that a busy machine makes no difference: as a ratio of CPU time."""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time

BITS = [
    *(
        "<a href='https://a.test/verify?t=",
        "<a href=",
        "</a>",
        "<a ",
        "<",
        ">",
        "'",
        '"',
        "&amp;",
        "<!--",
    ),
    *(
        "<style>",
        "<td>1</td>",
        "<br>",
        "href=''",
        "alt='",
        "https://",
        "http://a.test/(",
        "www.",
        ")",
        "]]",
    ),
    *(
        "1",
        "1 ",
        "1-",
        "+1",
        "(12)",
        "1.",
        "1:",
        "$1",
        "12345 ",
        "AB12-",
        "aB3 ",
        "code ",
        "code: 1234 ",
    ),
    *(
        "Your verification code is 482913. ",
        "order 4829 ",
        "認証コード",
        "\uff11",
        "\n",
        "\u00a0",
        "é",
        "\x00",
        "#",
    ),
    *("ABCD ", "=", "unsubscribe ", "%", "://", "1\n", "a.test/", "*", " ", "javascript:", "@"),
]
"""What mails that mean harm are made of."""

SMALL, LARGE = 4_096, 32_768
ROOM = 4.0
"""How much more than in proportion is noise, and not a power of the size: that would be 8 or more."""


def grows_no_faster_than_its_input(work: Callable[[int], object]) -> None:
    """Fail when work on input eight times as long takes much more than eight times as long."""
    work(SMALL)
    small = min(_time(work, SMALL) for _ in range(2))
    large = min(_time(work, LARGE) for _ in range(2))
    assert large <= max(small, 0.001) * (LARGE / SMALL) * ROOM


def _time(work: Callable[[int], object], size: int) -> float:
    started = thread_time()
    work(size)
    return thread_time() - started
