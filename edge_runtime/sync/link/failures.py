"""Why a connection could not be made or has ended, in words for a person. Knows nothing about the next one."""

from __future__ import annotations

import ssl

from edge_runtime.sync.link.client import Answer
from edge_runtime.sync.link.reason_codes import LinkError, Trouble, trouble_of
from edge_runtime.sync.link.settings import Settings

_KEEP_ALIVE_TIMEOUT = 0x8D  # paho's own word where nothing was heard for two keep-alives
_OF_CERTIFICATES = ("CERTIFICATE", "UNKNOWN_CA", "UNKNOWN CA")  # in the names of TLS alerts
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER", "HTTP_REQUEST")
_NO_VERSION = ("UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION")
# X509_V_ERR_*: of a host or an address; of signers
_OTHER_NAME, _UNKNOWN_AUTHORITY = (62, 64), (18, 19, 20, 21)
_NOT_YET, _EXPIRED = 9, 10
_PORTS = "give its port with TLS (8883 is usual), or mqtt:// within one machine"
_IF_IT_WANTS_ONE = "if it wants a certificate of this device, give --cert and --key"


def connect_error(settings: Settings, exc: BaseException) -> LinkError:
    """Of what TCP or TLS raised; anything else is raised as it is."""
    trouble = Trouble.LINE
    if isinstance(exc, ssl.SSLCertVerificationError):
        trouble, why = Trouble.CERTIFICATE, _of_broker(settings, exc)
    elif isinstance(exc, ssl.SSLError) and _says(exc, *_OF_CERTIFICATES):
        trouble, why = Trouble.CERTIFICATE, _of_device(settings, exc)
    elif isinstance(exc, (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError)) and settings.broker.secure:
        why = f"it cut the line in the TLS handshake; {_PORTS}"
    elif isinstance(exc, ssl.SSLError):
        why = _of_tls(settings, exc)
    elif isinstance(exc, ConnectionRefusedError):
        why = "connection refused; is it running, and is the port right?"
    elif isinstance(exc, OSError):
        why = exc.strerror or str(exc)
    else:
        raise exc
    error = LinkError(f"broker {settings.broker}: {why}", trouble)
    error.__cause__ = exc
    return error


def _says(exc: ssl.SSLError, *words: str) -> bool:
    return any(word in str(exc).upper() for word in words)


def _reason(exc: ssl.SSLError) -> str:
    return getattr(exc, "reason", None) or str(exc)


def _of_broker(settings: Settings, exc: ssl.SSLCertVerificationError) -> str:
    """What this device has against the broker's certificate."""
    if exc.verify_code in _OTHER_NAME:
        return f"its certificate is not for {settings.broker.host}; give --broker a name that is in it"
    if exc.verify_code in _UNKNOWN_AUTHORITY:
        known = "this system knows" if settings.tls.ca is None else "--ca holds"
        return (
            f"its certificate is not trusted: signed by none that {known}; give its authority's PEM with --ca"
        )
    if exc.verify_code == _EXPIRED:
        return "its certificate has expired; renew it at the broker, or set this device's clock"
    if exc.verify_code == _NOT_YET:
        return "its certificate is not yet valid; set this device's clock, or the broker's certificate"
    return f"its certificate is not trusted ({exc.verify_message}); check --ca"


def _of_device(settings: Settings, exc: ssl.SSLError) -> str:
    """What the broker has against this device's, as far as it says."""
    if settings.tls.cert is None or _says(exc, "CERTIFICATE_REQUIRED", "CERTIFICATE REQUIRED"):
        return "it wants a certificate of this device; give --cert and --key"
    if _says(exc, "CERTIFICATE_EXPIRED", "CERTIFICATE EXPIRED"):
        return "it says that this device's certificate has expired; give a new one with --cert and --key"
    if _says(exc, "UNKNOWN_CA", "UNKNOWN CA"):
        return "it does not know who signed this device's certificate; give one of its authority with --cert and --key"
    return f"it refuses this device's certificate ({_reason(exc)}); check --cert and --key"


def _of_tls(settings: Settings, exc: ssl.SSLError) -> str:
    if _says(exc, *_NOT_TLS):
        return f"what answers there is not TLS; {_PORTS}"
    if _says(exc, *_NO_VERSION):
        return "it has no TLS of version 1.2 or later; bring the broker up to date"
    if settings.tls.cert is None and _says(exc, "HANDSHAKE_FAILURE"):  # how TLS 1.2 asks for one
        return f"it ends the TLS handshake; {_IF_IT_WANTS_ONE}"
    return f"TLS fails ({_reason(exc)}); check --ca, --cert and --key"


def _early(settings: Settings) -> LinkError:
    """TLS 1.3 tells a refused client certificate only after the handshake, and something in between may eat that word."""
    if settings.tls.cert is None:
        hint = _IF_IT_WANTS_ONE
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
    if lost is not None and lost[1][0].value == _KEEP_ALIVE_TIMEOUT:
        return LinkError(f"{where}: silent")
    if answered:
        return LinkError(f"{where}: connection lost", by_peer=True)
    if settings.broker.secure:
        return _early(settings)
    hint = "say mqtts:// if this port is with TLS; else, does it speak MQTT v5?"
    return LinkError(f"{where}: closed without an answer; {hint}", by_peer=True)
