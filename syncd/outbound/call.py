"""Calls a URL with a document, over the connections that syncd itself uses."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import httpx

from syncd import __version__
from syncd.addresses import is_loopback
from syncd.exceptions import ConfigError
from syncd.files_api.base_url import checked_proxy
from syncd.files_api.exchange import DeadlinePassed, Exchange, Interrupted, StopFlag, StopSeen
from syncd.files_api.redaction import Secrets
from syncd.files_api.transport import EXCHANGE, Transport
from syncd.outbound.errors import StoppedError, UndeliveredError
from syncd.trust import TlsFiles

_ERRNO = re.compile(r"\[Errno -?\d+\] ")
_HEADERS = {
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": f"syncd/{__version__}",
}


class Call:
    """A URL that is called; any 2xx is success, and no redirect is followed.

    The proxy is for hosts other than this one. `ca_file` is trusted beside the public authorities.
    """

    def __init__(
        self,
        url: str,
        *,
        method: Literal["GET", "POST"] = "POST",
        proxy: str | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._url = httpx.URL(url)
        self._method = method
        self._proxy = None if not proxy or is_loopback(self._url.host) else checked_proxy(proxy)
        self._files = TlsFiles(ca_file)
        hidden = (url, self._url.password, self._url.raw_path.decode("ascii"))
        self._secrets = Secrets([*hidden, self._proxy.password if self._proxy else None])

    @property
    def shown(self) -> str:
        """Scheme and host: the rest may be a token."""
        return f"{self._url.scheme}://{self._url.netloc.decode('ascii')}/..."

    def deliver(
        self,
        document: bytes,
        *,
        seconds: float,
        stop: StopFlag,
        variables: Mapping[str, str],  # noqa: ARG002 - a command's
    ) -> None:
        """Send the document within `seconds`; see `Target.deliver`."""
        exchange = Exchange(timeout_seconds=seconds, deadline_seconds=seconds, stop=stop)
        try:
            status = self._status_of(document, exchange, seconds)
        except StopSeen:
            raise StoppedError from None
        except DeadlinePassed:
            raise UndeliveredError(f"{self.shown} took longer than {seconds:g} s") from None
        except (httpx.HTTPError, Interrupted, ConfigError) as error:
            # Not chained: the text of an error may quote the URL.
            why = self._secrets.shown(_ERRNO.sub("", str(error)) or type(error).__name__)
            raise UndeliveredError(f"{self.shown} cannot be called: {why}") from None
        if not 200 <= status < 300:
            is_elsewhere = 300 <= status < 400
            advice = "; a redirect is not followed, so name the final URL" if is_elsewhere else ""
            raise UndeliveredError(f"{self.shown} answers {status}{advice}")

    def _status_of(self, document: bytes, exchange: Exchange, seconds: float) -> int:
        exchange.check()
        # In lower case, as the transport looks for it.
        length = {"content-length": str(len(document))} if document else {}
        with (
            httpx.Client(transport=self._transport(), timeout=seconds, trust_env=False) as client,
            client.stream(
                self._method,
                self._url,
                content=document or None,
                headers=_HEADERS | length,
                extensions={EXCHANGE: exchange},
            ) as answer,
        ):
            return answer.status_code

    def _transport(self) -> httpx.BaseTransport:
        if self._proxy is None:
            return Transport(self._files)
        # Only those behind a proxy need httpcore, whose import takes a tenth of a start.
        from syncd.files_api.proxied import ProxiedTransport  # noqa: PLC0415

        return ProxiedTransport(self._proxy, self._files)
