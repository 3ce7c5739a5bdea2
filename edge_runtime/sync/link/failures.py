"""Why a connection could not be made or has ended, in words for a person. Knows nothing about the next one."""

from __future__ import annotations

import ssl

from edge_runtime.sync.link.broker import Broker
from edge_runtime.sync.link.client import Answer
from edge_runtime.sync.link.reason_codes import LinkError, Trouble, trouble_of
from edge_runtime.sync.link.settings import Settings

_KEEP_ALIVE_TIMEOUT = 0x8D  # paho's own word where nothing was heard for two keep-alives
_OF_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "UNKNOWN CA")  # in the names of TLS alerts


def connect_error(broker: Broker, exc: BaseException) -> LinkError:
    """Of what TCP or TLS raised; anything else is raised as it is."""
    trouble = Trouble.LINE
    if isinstance(exc, ssl.SSLCertVerificationError):
        trouble = Trouble.CERTIFICATE
        why = f"its certificate is not trusted ({exc.verify_message}); check --ca and the host name"
    elif isinstance(exc, ssl.SSLError) and any(word in str(exc).upper() for word in _OF_CERTIFICATES):
        trouble = Trouble.CERTIFICATE
        why = f"it refuses this device's certificate ({exc.reason or exc}); check --cert and --key"
    elif isinstance(exc, ssl.SSLError):
        why = f"TLS fails ({exc.reason or exc}); check --ca, --cert and --key"
    elif isinstance(exc, ConnectionRefusedError):
        why = "connection refused; is it running, and is the port right?"
    elif isinstance(exc, OSError):
        why = exc.strerror or str(exc)
    else:
        raise exc
    error = LinkError(f"broker {broker}: {why}", trouble)
    error.__cause__ = exc
    return error


def _early(settings: Settings) -> LinkError:
    """TLS 1.3 tells a refused client certificate only after the handshake, and something in between may eat that word."""
    if settings.tls.cert is None:
        hint = "if it wants a certificate of this device, give --cert and --key"
    else:
        hint = "if it refuses this device's certificate, check --cert and --key"
    why = f"the broker closed the connection after the handshake: {hint}"
    return LinkError(f"broker {settings.broker}: {why}", Trouble.EARLY, by_peer=True)


def ended_error(settings: Settings, lost: Answer | None, *, answered: bool) -> LinkError:
    """Of a connection that has ended: `lost` is the broker's DISCONNECT, or paho's word that there was none."""
    where = f"broker {settings.broker}"
    if lost is not None and lost[2]:
        code = lost[1][0].value
        return LinkError(f"{where}: {lost[1][0]}", trouble_of(code), code, by_peer=True)
    silent = lost is not None and lost[1][0].value == _KEEP_ALIVE_TIMEOUT
    if settings.broker.secure and not answered and not silent:
        return _early(settings)
    return LinkError(f"{where}: {'silent' if silent else 'connection lost'}", by_peer=not silent)
