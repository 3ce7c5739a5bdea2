"""paho's client, but for what comes and goes all the time: bytes in one piece, and the usual packets read and written here.

paho makes three system calls for each packet that comes and one for each that goes. Imported late, since paho is.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

from paho.mqtt import MQTTException
from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode

from edge_runtime.clock import monotonic_ns
from edge_runtime.sync.link.incoming import Acked, Event, Packets, read_puback, read_publish
from edge_runtime.sync.link.reason_codes import words_of

READ_BYTES = 32 * 2**10
_QOS_1 = 0x32  # of which paho asks nothing once it is written


class Reader(Client):
    """What arrives goes to `inbox`; connecting, subscribing, keeping alive and ending are paho's."""

    def __init__(self, inbox: deque[Event], *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._inbox = inbox
        self._packets = Packets()

    def _packet_read(self) -> MQTTErrorCode:
        try:
            data = self._sock_recv(READ_BYTES)
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_AGAIN
        except OSError:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        self._last_msg_in = self._last_bytes_received = monotonic_ns() / 1e9  # its name in 2.1 and in 2.2
        try:
            rc = self._handle(data) if data else MQTTErrorCode.MQTT_ERR_CONN_LOST
        except (MQTTException, ValueError, LookupError, struct.error):  # nonsense
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return MQTTErrorCode.MQTT_ERR_AGAIN if rc == 0 and len(data) < READ_BYTES else rc

    def _handle(self, data: bytes) -> MQTTErrorCode:
        """All packets that are whole now."""
        packet: Any = self._in_packet
        for packet["command"], packet["packet"] in self._packets.take(data):
            packet["remaining_length"] = len(packet["packet"])
            rc = self._packet_handle()
            if rc or self._sock is None:
                return rc
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_publish(self) -> MQTTErrorCode:
        message = read_publish(self._in_packet["command"], bytes(self._in_packet["packet"]))
        if message is None:
            return super()._handle_publish()
        self._inbox.append(message)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        """A PUBACK of any code."""
        answer = read_puback(bytes(self._in_packet["packet"])) if cmd == "PUBACK" else None
        if answer is None:
            return super()._handle_pubackcomp(cmd)
        mid, code = answer
        self._inbox.append(Acked(mid, code, words_of(code)))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def send(self, packets: bytes) -> None:
        """Whole PUBLISHes and PUBACKs; what the socket does not take now waits. An error shows at the next turn."""
        self._packet_queue(_QOS_1, memoryview(packets), 0, 1)  # type: ignore[arg-type]  # paho only slices it
