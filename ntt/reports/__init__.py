"""Reports on finished runs: `ntt report` and `ntt.load_runs`. Depends on run directories, not on sweeps.

records       run directories read as plain data
summary       runs as a pandas table; means over seeds
significance  two settings compared, with paired tests
tables        a table as markdown, CSV and LaTeX
content       the tables of a report
expected      ours next to the published values
detected      detections next to the ground truth: thresholds, confusions
figures       what plots have in common
plots         the plots of a report
page          the HTML page and its pictures; its templates, style and script are in assets/
"""
