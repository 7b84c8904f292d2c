"""Many runs at once: the meaning of a sweep file, its cost, its state and its execution.

`spec` reads a file of `sweeps/`, `points` expands it, `units` finds the work that points share, `costs` what it takes;
`plan` puts them together. `state` keeps tasks, jobs and what happened, `status` tells it, `records` make the tables.
A job is the same on this machine and on a cluster: `layout` divides a plan into jobs, `local` and `slurm` (with
`clusters` and `queue`) launch them with submitit's executors, `task` is what starts in them and `worker` what they do.
"""
