"""Trackers, the options of the config group `tracker`: mirrors of a run. The run directory stays the record.

base         no tracker, and what the others share
wandb        Weights & Biases, online or offline
tensorboard  event files in the run directory
"""
