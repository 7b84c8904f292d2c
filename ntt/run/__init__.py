"""One run, from its configuration to its directory.

runner: `python main.py` and `ntt run`; joins the processes and runs the requested stages ·
pipeline: a run in progress · stages: what each stage reads, computes and writes · checks: before it starts ·
inputs: annotation files, classes, references, digests of images · models: device, models and store ·
shared: what runs of a process share · together: matches them together · rundir, artefacts: its files ·
environment: the machine · table: its metrics
"""
