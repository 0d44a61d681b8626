"""Start Lightseal from a checkout, where nothing may be installed yet.

The syntax is one that older Pythons read, so that they can say what is missing.
"""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the sentence is for those who run an older one
    sys.exit(
        f"tools: Lightseal needs Python 3.11 or newer, and this is {sys.version.split()[0]}; "
        "start it with a newer one, as in: python3.11 -m tools demo"
    )

from tools import bootstrap


def main(arguments: list[str]) -> None:
    """Hand over to the command line, after the bootstrap where it is needed."""
    verb = arguments[0] if arguments else ""
    if bootstrap.is_needed(verb):
        if os.name != "posix":
            sys.exit("tools: the first start needs Linux or macOS; on Windows use its Linux subsystem")
        sys.exit(bootstrap.start(verb, arguments[1:]))
    from tools.cli import main as command  # noqa: PLC0415 - its dependencies exist only from here on

    command()


if __name__ == "__main__":
    main(sys.argv[1:])
