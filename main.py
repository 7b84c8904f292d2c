"""One experiment from images to metrics: `python main.py dataset=demo shots=5shot seed=0`."""

import signal

# While packages are imported Ctrl-C ends the process at once: an exception inside an import can be swallowed there.
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ntt.run.runner import main

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
