"""``python -m dlc`` is the ``dlc`` command."""

from dlc.cli import main

if __name__ == "__main__":
    main(prog_name="dlc")
