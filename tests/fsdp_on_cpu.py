"""The command line, for launchers that start a file: `torchrun ... tests/fsdp_on_cpu.py distill ...`."""

from piflow_cli.cli.app import main

if __name__ == "__main__":
    main()
