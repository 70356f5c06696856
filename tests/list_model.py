"""What lists mean, said once more and differently: entries have ranks, and the first that fits decides."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

SCOPES = ("inbox", "pod", "organization")
NAMES = ("ada@a.test", "bob@a.test", "ada@b.test", "a.test", "b.test")
ADDRESSES = ("ada@a.test", "bob@a.test", "ada@b.test", "bob@b.test", "eve@c.test")


class Listed(msgspec.Struct, frozen=True):
    """An entry of one list."""

    scope: str
    type: str
    entry: str
    suppressed: bool = False

    @property
    def rank(self) -> tuple[bool, int, bool]:
        return (not self.suppressed, SCOPES.index(self.scope), self.type == "allow")

    def fits(self, address: str) -> bool:
        return address == self.entry or address.endswith(f"@{self.entry}")


listed = st.builds(
    Listed, st.sampled_from(SCOPES), st.sampled_from(("allow", "block")), st.sampled_from(NAMES)
)
suppressions = st.builds(
    Listed,
    st.just("organization"),
    st.just("block"),
    st.sampled_from([name for name in NAMES if "@" in name]),
    st.just(value=True),
)
everything = st.lists(
    listed | suppressions, max_size=12, unique_by=lambda each: (*each.rank[1:], each.entry)
)


def said(entries: list[Listed], address: str) -> str:
    """What is said of an address."""
    fitting = sorted((each for each in entries if each.fits(address)), key=lambda each: each.rank)
    if fitting:
        return "allowed" if fitting[0].type == "allow" else "in block list"
    closed = any(each.type == "allow" for each in entries)
    return "not in allow list" if closed else "allowed"
