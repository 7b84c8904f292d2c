"""Overlays for whole experiments: `python main.py experiment=NAME`."""
