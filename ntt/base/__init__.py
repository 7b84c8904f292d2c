"""What everything else builds on; independent of images and models.

settings      fields with ranges, checked and digested by one loop
typed         dataclasses from the plain values of YAML and JSON
yaml_files    YAML read without surprises
digests       of files and of settings
files         atomic writes, locks, abandoned temporary files
download      resumed, verified transfers
distributed   several processes, one result
garbage       collection put off where millions of values are made
log           destinations of the library's log
overlap       loading, computing and finishing side by side
progress      a bar on a terminal, log lines elsewhere
project       where `conf/` and `experiments/` are
"""
