"""Search an index in the browser: drop a chip on a local page, see the most similar ones.

The page is for this computer only unless --host says otherwise. It has no users and no passwords: whoever reaches the
port can search, and see every chip of the index.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import socket

from . import make_parser, open_predictors, require_least, run

EPILOG = """example:
  mos index harbour/ --index output/harbour
  mos serve --index output/harbour

Then open the address that it prints. Ctrl-C ends it. docs/search.md has the page's JSON interface.
"""


def is_local(host: str) -> bool:
    """Whether only this computer can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket at that address; a MOSError where there can be none."""
    from ..errors import MOSError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OverflowError:
        raise MOSError(f"--port {port}: must be 0 (any free one) to 65535") from None
    except PermissionError:
        raise MOSError(f"--port {port}: not allowed; give one above 1023") from None
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        what = "is in use; give another, or 0 for any free one" if taken else f"cannot be used ({error})"
        raise MOSError(f"--host {host} --port {port}: {what}") from None


def program(args: argparse.Namespace) -> None:
    from ..errors import MOSError

    try:
        import python_multipart  # noqa: F401  uploads in a form
        import uvicorn

        from ..serve.app import make_app
    except ImportError as error:
        raise MOSError(f"{error.name} is not installed; run: pip install 'fastreid-mos[serve]'") from None
    from ..search import open_index
    from ..serve.served import Served

    require_least(args, max_upload=1)
    with listen(args.host, args.port) as server:
        (predictor,) = open_predictors([args.weights or open_index(args.index).weights.name], args)
        served = Served(args.index, predictor)
        names = {socket.gethostname(), args.host, *args.allow_host}
        app = make_app(served, names, args.max_upload * 2**20)
        host, port = server.getsockname()[:2]
        if not is_local(args.host):
            print(f"warning: --host {args.host}: whoever reaches this computer can search, and see the index's chips")
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        print(f"{address}  ({len(served.index):,} chips; Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, limit_concurrency=100
        )
        uvicorn.Server(config).run(sockets=[server])


def main(argv: list[str] | None = None) -> int:
    parser = make_parser("serve", __doc__, EPILOG)
    parser.add_argument("--index", required=True, metavar="OUT", help="what mos index made: a folder, or qdrant://...")
    parser.add_argument("--weights", default="", help="default: those of the index")
    parser.add_argument("--host", default="127.0.0.1", help="address; default 127.0.0.1, this computer only")
    parser.add_argument("--port", type=int, default=8765, help="default 8765; 0: any free one")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a further name of the page")
    parser.add_argument("--max-upload", type=int, default=16, metavar="MB", help="largest chip taken; default 16")
    parser.add_argument("--device", default=None, help="cpu, cuda, ...; default: a GPU if there is one")
    return run(program, parser.parse_args(argv))
