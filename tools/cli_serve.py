"""`lightseal serve`: the home's service for devices and for whoever asks about certificates."""

from contextlib import ExitStack
from urllib.parse import urlsplit

import click

from tools.invocation import home_of, now


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Default: that of the certificates' OCSP address."
)
@click.option(
    "--public-url", help="How devices reach this service, where it is not the address it listens at."
)
@click.option(
    "--with-ca",
    "certifying",
    is_flag=True,
    help="Certify in this process too; safer is 'lightseal ca serve' beside it, as another user.",
)
@click.pass_context
def serve(
    context: click.Context, host: str, port: int | None, public_url: str | None, *, certifying: bool
) -> None:
    """Answer for certificates (OCSP, CRL), enrol devices, and take their captures, over HTTP.

    Plain HTTP: put a proxy with TLS in front of what devices use. Time-stamps are given at /tsa/, as
    'lightseal tsa serve' gives them. Each enrolment, capture and refusal is a line of JSON on standard error.
    """
    from tools.decisions import decisions_told
    from tools.issuance.authority_server import RemoteAuthority, socket_of
    from tools.issuance.desk import authority_of
    from tools.service_app import service
    from tools.serving import serve as listen
    from tools.status_lists import looking_after

    home = home_of(context)
    if port is None:
        port = urlsplit(home.ocsp_url).port or 80
    with ExitStack() as stack:
        stack.enter_context(decisions_told())
        issuing = (
            stack.enter_context(authority_of(home, now))
            if certifying
            else RemoteAuthority(socket_of(home.path))
        )
        if certifying:
            stack.enter_context(looking_after(home.path, now))
        listen(stack.enter_context(service(home, issuing, public_url, now)), host, port, click.echo)
