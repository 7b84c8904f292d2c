"""Options of the config group `matcher`: they turn candidates into detections.

base                 the schema every matcher derives from
scoring              what matchers have in common: vectors of the memory, labels, suppression, merging, output
image_terms          what several matchings of one image have in common
prototype            the published matcher
several_prototypes, counterexamples, probe, graph_diffusion: alternatives
auto                 leaves the choice to the references
"""
