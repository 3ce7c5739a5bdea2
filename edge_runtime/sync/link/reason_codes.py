"""What the reason codes of MQTT v5 mean to an uplink: what is wrong with a connection, or with one message.

Knows nothing about connections; the numbers are those of the specification, 2.4.
"""

from __future__ import annotations

from enum import Enum

from edge_runtime.errors import UplinkError

NO_SUBSCRIBERS = 0x10  # the broker took it and had nobody to give it to
FAILURE = 0x80  # from here on it refuses
NOT_AUTHORISED = 0x87
BUSY = frozenset({0x88, 0x89, 0x93, 0x97, 0x9F})  # unavailable, busy, too much at once, quota, rate
WHO = frozenset({0x85, 0x86, 0x87, 0x8A, 0x8C})  # client id, user or password, not allowed, banned, method
TAKEN_OVER = 0x8E
TOO_LARGE = 0x95  # mosquitto says it in a PUBACK too, for its message_size_limit
OVER_ONE_MESSAGE = frozenset({0x81, 0x82, TOO_LARGE, 0x99})  # malformed, protocol, payload format
OF_A_TOPIC = frozenset({NOT_AUTHORISED, 0x90, 0x9A})  # access list, topic name, retain
_WORDS = {
    0x00: "Success",
    NO_SUBSCRIBERS: "No matching subscribers",
    FAILURE: "Unspecified error",
    0x83: "Implementation specific error",
    NOT_AUTHORISED: "Not authorized",
    0x90: "Topic name invalid",
    0x91: "Packet identifier in use",
    TOO_LARGE: "Packet too large",
    0x97: "Quota exceeded",
    0x99: "Payload format invalid",
}


class Trouble(Enum):
    """What ended a connection or kept it from being; the first two pass, the others a person must mend if they go on."""

    LINE = "line"  # nobody there, no route, cut, silent
    BUSY = "busy"  # a broker that asks for patience
    EARLY = "early"  # closed after the TLS handshake, without a word: a certificate, if it goes on
    CERTIFICATE = "certificate"
    AUTHORISATION = "authorisation"
    TAKEN_OVER = "taken over"  # by another with this client id


class LinkError(UplinkError):
    """A connection that cannot be, or has ended; `trouble` says what to expect of the next."""

    def __init__(
        self, message: str, trouble: Trouble = Trouble.LINE, code: int | None = None, by_peer: bool = False
    ) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.code = code  # the broker's, where it gave one
        self.by_peer = by_peer  # ended from there, not given up from here


class Verdict(Enum):
    """A PUBACK's word on one message."""

    TAKEN = "taken"
    UNHEARD = "unheard"  # the broker has it and nobody to give it to
    LATER = "later"  # not now: the row waits
    NOT_THIS_KIND = "not this kind"  # this topic is refused; other topics go on
    NOT_THIS_ROW = "not this row"
    NEVER_THIS_ROW = "never this row"  # it will be as large at every try


def words_of(code: int) -> str:
    """Of a PUBACK, for a person."""
    return _WORDS.get(code, f"reason code 0x{code:02X}")


def trouble_of(code: int) -> Trouble:
    """Of a refusing CONNACK or SUBACK, or of a DISCONNECT."""
    if code == TAKEN_OVER:
        return Trouble.TAKEN_OVER
    if code in WHO:
        return Trouble.AUTHORISATION
    return Trouble.BUSY if code in BUSY else Trouble.LINE


def verdict_of(code: int) -> Verdict:
    """Of a PUBACK. A refusal that says nothing of the message counts against this one only."""
    if code == NO_SUBSCRIBERS:
        return Verdict.UNHEARD
    if code < FAILURE:
        return Verdict.TAKEN
    if code in BUSY:
        return Verdict.LATER
    if code == TOO_LARGE:
        return Verdict.NEVER_THIS_ROW
    return Verdict.NOT_THIS_KIND if code in OF_A_TOPIC else Verdict.NOT_THIS_ROW
