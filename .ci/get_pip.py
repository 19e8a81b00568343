"""Stands in for the pip bootstrap that ansible-test would download: ensurepip, then the index."""

import subprocess
import sys

if __name__ == "__main__":
    wanted = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
    subprocess.check_call([sys.executable, "-m", "ensurepip", "--default-pip"])
    sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", "--quiet", *wanted]))  # noqa: S603
