"""``python -m peftcli`` is ``peft``."""

from peftcli.cli.program import main

if __name__ == "__main__":
    main()
