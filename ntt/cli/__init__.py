"""The console script `ntt`.

main                                        the command and its errors
run data convert weights store sweep        one module per command: parameters and help texts. Modules that load torch
report export backbone references           are imported when a command runs
data_files boxes_to_masks report_files      the work of the longer commands
reference_check
options                                     what commands share
"""
