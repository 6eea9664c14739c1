"""Clients of the configured service, its storage, and the URLs that are told of things."""

from typing import Any, Literal

from pydantic import SecretStr

from syncd.config.loading import Config
from syncd.files_api import Bandwidth, FilesClient, StopFlag
from syncd.metrics import REQUEST_SECONDS, REQUESTS
from syncd.outbound import Call


def make_client(config: Config, stop: StopFlag, bandwidth: Bandwidth | None = None) -> FilesClient:
    """Return a client of the configured service, with the configured key."""
    secrets = config.credentials
    return FilesClient(
        base_url=config.api.base_url,
        api_key=secrets.api_key.get_secret_value() if secrets.api_key else None,
        bearer_token=secrets.bearer_token.get_secret_value() if secrets.bearer_token else None,
        sandbox=config.api.sandbox,
        allow_cleartext=config.api.allow_cleartext,
        observer=_count_request,
        bandwidth=bandwidth,
        **_way(config, stop),
    )


def make_storage_client(config: Config, stop: StopFlag, base_url: str) -> FilesClient:
    """Return a client without a key, for the presigned URLs of the service at `base_url`."""
    return FilesClient(base_url=base_url, api_key=None, allow_cleartext=True, **_way(config, stop))


def _way(config: Config, stop: StopFlag) -> dict[str, Any]:
    """Return how to reach the service and its storage, as a client takes it."""
    return {
        "timeout_seconds": config.api.timeout_seconds,
        "connect_seconds": config.api.connect_seconds,
        "proxy": config.api.proxy,
        **config.api.tls_files._asdict(),
        "storage_hosts": config.api.storage_hosts,
        "stop": stop,
    }


def _count_request(operation: str, status: int | None, seconds: float) -> None:
    REQUESTS.add(operation, "none" if status is None else str(status))
    REQUEST_SECONDS.add(operation, by=seconds)


def make_call(config: Config, url: SecretStr, method: Literal["GET", "POST"] = "POST") -> Call:
    """Return the call of a configured URL, by the configured proxy."""
    api = config.api
    return Call(url.get_secret_value(), method=method, proxy=api.proxy, ca_file=api.ca_file)
