"""The command-line tools; installed as the package ``mos_tools``."""
