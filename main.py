"""One experiment from images to metrics: `python main.py dataset=demo shots=5shot seed=0`."""

from ntt.run.runner import main

if __name__ == "__main__":
    main()
