"""Many runs at once: what a sweep file means, what it costs, where it stands, and how it is done.

`spec` reads a file of `sweeps/`, `points` expands it, `plan` finds the work that points share, `state` keeps what
happened, `work` is what a job executes, `local` and `slurm` start jobs, `collect` makes the tables.
"""
