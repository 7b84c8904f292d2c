"""Trackers, the options of the config group `tracker`: mirrors of a run. The run directory stays the record.

base         `Tracker`, which keeps nothing, its settings, and what the others share
none         no tracker
wandb        Weights & Biases, online or offline
tensorboard  event files in the run directory
"""
