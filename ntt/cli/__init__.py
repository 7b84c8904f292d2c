"""The console script `ntt`.

main                                        the command and its errors
run data convert weights store sweep        one module per command: parameters and help texts. Modules that load torch
report export backbone references           are imported when a command runs; `run` has `show`, too
data_check data_get boxes_to_masks          the work of the longer commands
report_files reference_check
options                                     what commands share
"""
