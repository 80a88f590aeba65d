"""Speed and memory of the hot loops against their plain forms: `python -m piflow_cli.speed.rollout`."""
