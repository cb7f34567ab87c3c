"""The command line, one module a command; nothing is imported before it is called."""


def main() -> None:
    """Entry point of `nca-interp`."""
    from nca_interp.cli.app import main as run

    run()
