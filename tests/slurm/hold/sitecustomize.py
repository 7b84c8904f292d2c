"""Stops a process after each image it stores, as long as the file that NTT_TEST_HOLD names exists."""

import os
import signal
from pathlib import Path

replace = os.replace


def replace_and_stop(source, target, **more):
    replace(source, target, **more)
    if "/candidates/" in str(target) and Path(os.environ["NTT_TEST_HOLD"]).exists():
        os.kill(os.getpid(), signal.SIGSTOP)


os.replace = replace_and_stop
