"""The command line with small reference pictures (`tiny_qwen_edit.py`), for one process or a launcher's several."""

from tiny_qwen_edit import small_references

from piflow_cli.cli.app import main

if __name__ == "__main__":
    small_references()
    main()
