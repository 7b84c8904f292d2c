"""Trackers, the options of the config group `tracker`: mirrors of a run. The run directory stays the record.

base   no tracker, and the interface
wandb  Weights & Biases, online or offline
"""
